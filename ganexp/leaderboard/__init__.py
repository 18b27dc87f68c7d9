"""Leaderboards: the runs of a study or a sweep, setting by setting over the seeds."""
