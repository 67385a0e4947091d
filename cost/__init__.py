"""`fanout.cost`: what a run costs. The price book, the bill and the estimate will live here."""

if __name__ != "fanout.cost":
    raise ImportError(
        "this folder is the package fanout.cost: import it by that name "
        "(a bare `import cost` would load a second copy of it)"
    )
