# For sourcing: runs a named step and says how many minutes it took.

step() {
    local name=$1 start=$SECONDS
    shift
    printf '\n=== %s: %s\n' "$name" "$*"
    local code=0
    "$@" || code=$?
    printf '=== %s: %s min%s\n' "$name" "$(minutes_since "$start")" "$([ "$code" = 0 ] || echo ", failed with exit code $code")"
    return "$code"
}

minutes_since() {
    local seconds=$((SECONDS - $1))
    printf '%d.%d' $((seconds / 60)) $((seconds % 60 / 6))
}
