"""`benchmarks/run`: Keepstream beside what people use instead, on real servers of its own.

measure      results and their arithmetic, the table, the JSON; pure
machine      what it ran on
servers      source, replica and Kafka, both PostgreSQL servers with the same settings
workload     the tables, and what is written into them
writer       the program that writes at a steady rate
pipelines    real keepstream.yaml files, and their stages as processes of their own
stage        the program that such a process runs
processes    processor time of a process and its children
scene        a source, and databases that equal it
anchors      what Keepstream is compared with: pg_recvlogical, native subscriptions
bench        what every benchmark is given
capture, apply, copying, latency, memory, costs    the benchmarks
rows         the row codec alone; not part of the run: `python benchmarks/rows.py`
"""
