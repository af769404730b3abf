"""A client of registries that speak the distribution specification (OCI's, which is docker's).

    transport   one HTTP exchange: connections, TLS, proxies, how long and how much a peer may take
    tokens      what a 401 asks for, and the tokens that answer it
    session     an exchange with what surrounds it: redirects, authorization, trying again
    client      the API: manifests and blobs, out of a repository
    upload      the API: into a repository

Nothing here knows of stores, references or platforms. Importing any of the modules imports urllib3.
"""
