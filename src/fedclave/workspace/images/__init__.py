# SPDX-License-Identifier: Apache-2.0
"""Images of a workspace: the same inputs give the same bytes, on any machine, with any builder.

Nothing is run to make one. Wheels are unpacked, not installed; files are placed, not copied by a
container. So an image is a function of the contract, the lock, this fedclave and the base image.

    tree      files before they are in an image
    oci       images as files: read one, write one
    requirements  what is wanted, and from which indexes
    lock      which wheels that is, by version and hash
    wheels    the files in them
    own       this fedclave as a wheel
    bytecode  compiled modules that are the same everywhere
    prune     what no run needs
    content   what goes where
    engines   docker, podman, buildah
    deploy    how a finished one is started: a line, a compose file, Kubernetes manifests
"""
