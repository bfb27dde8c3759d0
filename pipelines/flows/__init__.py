"""Prefect flows: what runs, in which order, with which retries.  Each reads like the list of its steps.

Imported only by the commands that run a flow: importing Prefect takes seconds.
"""
