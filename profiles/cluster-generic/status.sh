#!/bin/sh
# status.sh pbs|lsf JOB: prints running, success or failed, which is what Snakemake wants to know.
# A scheduler that gives no answer is asked again later. A job that it has forgotten counts as success: Snakemake then looks for the
# files of the job, which are there as a whole or not at all.

pbs() {
    told=$(qstat -x -f "$1" 2>&1)
    state=$(echo "$told" | sed -n 's/^ *job_state = //p')
    case "$state:$told" in
        F:*) test "$(echo "$told" | sed -n 's/^ *Exit_status = //p')" = 0 && echo success || echo failed ;;
        :*"Unknown Job"*) echo success ;;
        *) echo running ;;
    esac
}

lsf() {
    told=$(bjobs -noheader -o stat "$1" 2>&1)
    case "$told" in
        DONE*) echo success ;;
        EXIT*) echo failed ;;
        *"is not found"*) echo success ;;
        *) echo running ;;
    esac
}

case "$1" in
    pbs | lsf) "$1" "$2" ;;
    *) echo "status.sh: unknown scheduler '$1': give pbs or lsf" >&2; exit 1 ;;
esac
