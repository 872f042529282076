"""``python -m egress_router``."""

from egress_router.cli.main import main

if __name__ == "__main__":
    main()
