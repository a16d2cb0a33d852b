"""Many runs: which there are, which are done, and how the rest gets done.

    sweep.dir/  sweep.json  runs/NAME/  logs/NAME.log  records/NAME.json  locks/NAME  comparison.{md,csv,tex,html,json}
    plots/

What is done is read from the run folders; a record says why a run without a result has none. A lock is held by the
process that computes a run and by the sweep that waits for it, so it is free exactly when nobody works on the run,
however they ended.
"""
