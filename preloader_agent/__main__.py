"""`python -m preloader_agent`, and the `preloader` command: the host's, where pip was asked for what the host needs."""

import sys


def main() -> None:
    """Run the host's command, or say how to get the modules that it lacks (exit status 1)."""
    try:
        from preloader_agent.host.cli import main as run_command  # noqa: PLC0415 - it may lack what it imports
    except ModuleNotFoundError as err:
        sys.exit(
            f"preloader: Python has no module {err.name}: run pip install 'preloader-agent[host]', "
            "or install the package preloader of your distribution"
        )
    run_command()


if __name__ == "__main__":
    main()
