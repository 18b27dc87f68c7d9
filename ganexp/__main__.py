"""python -m ganexp"""

from ganexp.cli.main import main

if __name__ == "__main__":
    main()
