"""Building images: a file of steps, a context, and images to begin with become a new image.

    containerfile, instructions   a Containerfile, as docker reads it        ┐
    tomlfile                      the same in TOML                           ┴→ steps.Recipe
    template                      $VARIABLES in the words of a step
    ignore, context, plan         what COPY takes: .dockerignore, globs, digests
    keys, records                 which step is done already, and why one is not
    engine, run                   the steps of a stage become layers

The two readers know nothing of the engine, and the engine knows only steps. What they read is hostile: a
project's files, its context, and the images that it begins with.
"""
