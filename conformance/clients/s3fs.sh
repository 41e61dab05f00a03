exec "$TOOLS/venv-data/bin/python" "$(dirname "$0")/s3fs_client.py"
