"""Images: their references, the registries they come from, the store they are kept in, their layers.

A process pulls, pushes or unpacks here; what a sandbox then does with a root is planned and launched
below. Import from the modules: nothing is loaded by importing the package.
"""
