"""Layers: what a tar stream says about a directory, done or written.

    names     names in archives: what is one, and how it is shown
    compress  gzip, zstd and the like: bytes in, blocks out, digests on the way
    tar       reading archives, by the letter and within limits
    writer    writing them, the same bytes every time
    merged    what layers on top of each other show, without mounting them
    tree      the layer's directory while it is made, by descriptor
    files     its files, written by a process beside
    apply     an archive's entries, applied
    changes   an overlay's writable layer, as an archive
    worker    all of this as a program, for the confined child

The rules are those of the image specification (image-spec 1.1, layer.md); where it is silent, what
Docker and umoci agree on. Everything read here is hostile. Nothing here knows of stores,
registries or sandboxes; what needs those is beside this package.
"""
