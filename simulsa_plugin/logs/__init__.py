"""Logs of SimulEval, OmniSTEval and simulstream: readers, writers, conversion, checks."""
