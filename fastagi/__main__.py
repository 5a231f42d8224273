"""``python -m fastagi``."""

from fastagi.cli import main

if __name__ == "__main__":
    main()
