exec "$TOOLS/venv/bin/python" "$(dirname "$0")/boto3_client.py"
