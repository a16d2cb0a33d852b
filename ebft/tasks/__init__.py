"""The tasks, one file each: questions with reference answers, and verifiers of any other answer."""
