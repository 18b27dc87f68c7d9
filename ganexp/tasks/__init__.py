"""The tasks, `python -m ganexp task=NAME`: one class per file in conf/task/.

A task is plain Python. `Task(config, run_dir, **arguments)` checks its arguments and has no side effects. `setup()`, which is
optional, builds and loads what the task needs and checks the rest, without writing into `run_dir`. `run()` does the work there
and may return an exit code. `config` has plain containers: the top-level keys that the option lists under `needs` and `optional`.
The arguments are the option's other keys, `task.KEY=…` on the command line. If a ValueError from the constructor or setup starts
with an argument's name, `num: …`, it is shown with the full key, `task.num: …`.
"""
