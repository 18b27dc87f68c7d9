"""What `python -m ganexp task=NAME` does: one class for each file of conf/task/.

A task is plain Python: `Task(config, run_dir, **arguments)` checks everything that can be wrong and writes nothing; `run()` does
the work in `run_dir`, and may return an exit code. `config`: plain containers, the top-level keys that the option names under
`needs` and `optional`. The arguments are the option's other keys, `task.KEY=…` on the command line. A ValueError that starts with
the name of an argument, `num: …`, is shown with its full key, `task.num: …`.
"""
