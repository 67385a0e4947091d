# The session in resume.svg. Recorded in a terminal of 98 x 18, beside sweep.py, with
#   seq 200 > grid.jsonl
#   asciinema rec -c 'fanout emulate --concurrency 16 -- bash resume.sh' resume.cast
#   termtosvg render resume.cast resume.svg -D 3000 -m 60 -M 3000 -t window_frame
prompted() {
    printf '\033[32m$\033[0m '
    for ((i = 0; i < ${#1}; i++)); do printf '%s' "${1:i:1}"; sleep 0.03; done
    sleep 0.4
    echo
}
typed() { prompted "$1"; eval "$1"; sleep "${2:-1}"; }

map="fanout map sweep:simulate --chunks grid.jsonl --out results.jsonl --name sweep-7"
prompted "$map"
$map --progress &
client=$!
sleep 12
kill -9 $client
wait $client 2>/dev/null
printf '\nKilled\n'
sleep 1
typed "fanout runs" 2
typed "fanout resume sweep-7 --out results.jsonl"
typed "wc -l results.jsonl"
typed "fanout runs" 3
