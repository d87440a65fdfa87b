"""``python -m saferlrm`` is the command ``saferlrm``."""

from saferlrm.cli import main

main()
