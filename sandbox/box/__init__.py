"""Boxes: sandboxes by a name, whose changes stay.

    state/boxes/NAME/           locked (flock(2)) by whoever uses it: a running sandbox, a commit, a removal
        box.json                what it is: the image, what mounts its writable layer, when it was made
        ids.json                whose files it has (as unpacked layers have)
        files/upper, files/work the writable layer

A box appears by a rename, and goes by one: what a crash leaves begins with a dot, and whoever uses boxes next
removes it. Its image has a name of its own in the store ("@box/WHOSE/NAME"), so that what it is made of
stays.
"""

from __future__ import annotations

from sandbox.box.boxes import Box, Boxes, Record

__all__ = ["Box", "Boxes", "Record"]
