# SPDX-License-Identifier: Apache-2.0
"""Enclaves of a workspace: an image, and for each role a manifest that Gramine starts it by.

Nothing of Gramine is run to make one, and no SGX is needed. So whoever holds the same contract,
lock, base image and Gramine release makes the same manifests, and computes the same MRENCLAVE.

    toml      a manifest's text, the form that Gramine's own signer writes
    deb       a package of Debian's, unpacked
    runtime   the Gramine that the user brings
    closure   the libraries that programs need
    measured  every file that is measured, with its SHA-256 and what it comes from
    manifest  what a role's manifest says
    recipe    what an enclave was made of, for whoever makes it again
    enclave   from an image's files to manifests, measurements and signatures
"""
