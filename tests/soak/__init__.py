"""The soak: thousands of faults against a pipeline under load, judged from outside (docs/soak.md).

__main__    the command line               soak      the loop over a seeded plan
plan        the sequence of faults         faults*   what each kind does
site        servers, log, proxies          arena     one pipeline on it, watched
traffic     the workload as a thread       lane      the processes of one stage
tally       what was seen, as a table      bugs      bugs that a soak must catch
"""
