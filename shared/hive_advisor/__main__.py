"""``python -m hive_advisor``: the same as the console script ``hive-advisor``."""

from hive_advisor.cli.main import main

if __name__ == "__main__":
    main()
