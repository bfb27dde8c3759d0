#!/bin/sh
# Makes .venv and installs everything into it.  Safe to run again after an interruption: pip goes on where it stopped.
set -eu

: "${PYTHON:=python3.11}"
if ! command -v "$PYTHON" >/dev/null 2>&1; then
  echo "setup: '$PYTHON' was not found. Install Python 3.11 (Debian: apt-get install python3.11 python3.11-venv; macOS: brew install python@3.11)," >&2
  echo "       or name it: make setup PYTHON=/path/to/python3.11" >&2
  exit 1
fi
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
  echo "setup: $("$PYTHON" --version) is not Python 3.11, which the pinned packages need. Name one: make setup PYTHON=/path/to/python3.11" >&2
  exit 1
fi
if ! "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null; then
  echo "setup: this Python has no venv. On Debian: apt-get install python3.11-venv" >&2
  exit 1
fi
if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
  echo "setup: making .venv with $("$PYTHON" --version)"
  rm -rf .venv
  "$PYTHON" -m venv .venv
fi
echo "setup: installing packages (about 3.5 GB on disk; 2 to 4 minutes)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
touch .venv/.ready
echo "setup: done"
