"""`fanout.deploy_image`: the container image and the stack around it will live here."""

if __name__ != "fanout.deploy_image":
    raise ImportError(
        "this folder is the package fanout.deploy_image: import it by that name "
        "(a bare `import deploy_image` would load a second copy of it)"
    )
