"""The benchmark, `scripts/bench`, in reading order:

    loads       what is measured: the table
    servers     who is measured: this server, the peers, the sink
    sink        the least that a server can do, for the driver's own limit
    links       connections that do not wait
    roles       the driver's clients and workers
    driver      one process of the driver
    crew        its processes together: one measured run
    summary     runs to medians, spread and ratios; the table on the screen
    picture     the same, drawn (needs matplotlib)
    command     argv, and the alternation

It imports nothing of gearmand but packet types and the version, because it measures other servers too.
"""
