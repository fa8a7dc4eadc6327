"""What all tests share; `fakes` is importable because this file stands beside it."""
