"""python -m edge_imdb: the command line, e.g. for ``accelerate launch -m edge_imdb train sentiment``."""

from .cli.main import main

if __name__ == "__main__":
    main()
