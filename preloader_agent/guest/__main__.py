"""`python -m preloader_agent.guest`: the `docker-preloader` command where it is not installed as one."""

from preloader_agent.guest.cli import main

main()
