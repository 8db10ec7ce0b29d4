"""Entry point of `python -m jaxae`, the same as the console script `jaxae`."""

from jaxae.commands.main import main

if __name__ == "__main__":
    main()
