# The node of tools.sh goes before one that is too old.
export PATH=$TOOLS/node/node_modules/node/bin:$PATH NODE_PATH=$TOOLS/node/node_modules
exec node "$(dirname "$0")/js_sdk.cjs"
