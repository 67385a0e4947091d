"""Commands of `fanout cost`, a module each; `fanout/cli/cost.py` lists them."""
