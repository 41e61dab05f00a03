exec "$TOOLS/venv-data/bin/python" "$(dirname "$0")/pyarrow_client.py"
