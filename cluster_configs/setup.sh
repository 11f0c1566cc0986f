#!/usr/bin/env bash
# Makes a node ready for latecomer: an environment of its own, and the shell that finds it.
# The launcher files call it on every node after they have copied the project; it can be repeated.
#
#   LATECOMER_PYTHON       the Python that makes the environment; python3 if unset. 3.11 or newer.
#   LATECOMER_TORCH_INDEX  an index that has torch for CPUs alone, as pytorch.org names it. If unset, torch
#                          comes from where all packages come from: on x86-64 with 5 GB for GPUs beside it.
set -euo pipefail

project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
home="$HOME/.latecomer"
python="${LATECOMER_PYTHON:-python3}"

# Token authentication: the launcher copies the token, and its owner alone may read it.
if ! test -s "$HOME/.ray/auth_token"; then
  echo "There is no token in ~/.ray/auth_token. Make one where ray up was called: ray get-auth-token --generate" >&2
  exit 1
fi
chmod 600 "$HOME/.ray/auth_token"

# The environment. build/ is what an earlier installation has left: modules that are gone would come back from it.
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: set LATECOMER_PYTHON")'
mkdir -p "$home"
test -x "$home/env/bin/python" || "$python" -m venv "$home/env"
rm -rf "$project/build"
install() {
  "$home/env/bin/python" -m pip install --quiet --disable-pip-version-check -c "$project/constraints.txt" "$@"
}
if test -n "${LATECOMER_TORCH_INDEX:-}"; then
  install --index-url "$LATECOMER_TORCH_INDEX" torch
fi
install "$project"

# Every shell of Ray's launcher reads ~/.bashrc: ray up, ray submit, ray exec, ray down.
cat > "$home/env.sh" <<'END'
export PATH="$HOME/.latecomer/env/bin:$PATH"
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
END
line='test ! -f ~/.latecomer/env.sh || . ~/.latecomer/env.sh'
touch "$HOME/.bashrc"
grep -qxF "$line" "$HOME/.bashrc" || printf '%s\n' "$line" >> "$HOME/.bashrc"
