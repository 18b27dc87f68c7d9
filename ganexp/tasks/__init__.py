"""What `python -m ganexp task=NAME` does: one class for each file of conf/task/.

A task is plain Python: `Task(config, run_dir, **arguments)` checks its arguments and has no side effects; `setup()`, which a task
may lack, builds and loads what it needs and checks the rest, without writing into `run_dir`; `run()` does the work there, and may
return an exit code. `config`: plain containers, the top-level keys that the option names under `needs` and `optional`. The
arguments are the option's other keys, `task.KEY=…` on the command line. A ValueError from the constructor or setup that starts
with the name of an argument, `num: …`, is shown with its full key, `task.num: …`.
"""
