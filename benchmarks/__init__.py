"""`benchmarks/run`: Keepstream beside what people use instead, on real servers of its own.

measure     results and their arithmetic, the table, the JSON; pure
machine     what it ran on
servers     source, replica and Kafka, all with the settings that users are told to run
workload    the tables, and what is written into them
pipelines   real keepstream.yaml files, and their stages as processes of their own
stage       the program that such a process runs
anchors     what Keepstream is compared with: pg_recvlogical, native subscriptions, psql
capture, apply, copying, latency, memory, costs    the benchmarks
rows        the row codec alone; not part of the run: `python benchmarks/rows.py`
"""
