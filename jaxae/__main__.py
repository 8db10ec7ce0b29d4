"""`python -m jaxae`, as the console script `jaxae`."""

from jaxae.commands.main import main

if __name__ == "__main__":
    main()
