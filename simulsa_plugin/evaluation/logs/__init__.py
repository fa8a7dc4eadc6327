"""Logs of emissions: read in the forms of SimulEval, OmniSTEval and simulstream, and written for them."""
