exec env NODE_PATH="$TOOLS/node/node_modules" node "$(dirname "$0")/js_sdk.cjs"
