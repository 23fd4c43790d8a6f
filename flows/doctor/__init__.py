"""What will fail before it does: the machine, and what a recipe and a place ask of it.

One subject a module, in two halves: judgements, which are pure (what was found in, `Check`s out), and the thin measuring before
them. What the code knows already (retention, the mirror, the jail, the way to the other nodes) is asked, never judged a second time.
Nothing beyond loopback is contacted, nothing is left behind, and no value of a credential is read, but whether it is there.
"""
