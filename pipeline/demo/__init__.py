"""The demo: Keepstream on a real CRM, told as a story by `./demo`.

    names            people, companies and places, drawn from a seeded generator
    tryton           a running Tryton: its models and its transactions     ┐
    tryton_company   the books, products and staff of a small company      │ in processes of their own,
    tryton_business  what a sales team does, by Tryton's business rules    │ importing nothing of Keepstream
    tryton_traffic   the process that keeps that going at a steady rate    ┘
    crm              Tryton's database in the source, made once and cached
    traffic          the sales team's process, seen from outside
    commands         `keepstream …` as a user would call it
    livestatus       what `keepstream status` says, once a second
    latency          commit on the source until visible on the replica, seen from outside
    kills            SIGKILL in mid-traffic, and proof that the stages came back
    proof            sabotage, and a second opinion on "identical" in plain SQL
    tally            what went through the log, from `keepstream events`
    screen           progress for a terminal, or plain lines
    ending           the last lines
    story            the steps, in order

Keepstream does not depend on Tryton: `./demo` installs both into one environment, Tryton from
requirements-demo.lock. Keepstream is used through its command line alone.
"""
