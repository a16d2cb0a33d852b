"""`ebft-train` as `ebft-sweep` starts it: it ends, saved, when the process that started it does."""

from ebft.cli.parent import end_with_parent


def main() -> None:
    end_with_parent()
    from ebft.cli.train import main as train

    train()


if __name__ == "__main__":
    main()
