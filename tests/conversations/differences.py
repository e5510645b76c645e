"""Where the C server (1.1.20) goes another way than the conversations, and why this one does not follow.

Conversation to reason. The C server must fail each of these, or the row is out
of date. A mistake in the C server is named as such; the others are choices.
"""

DIFFERENCES = {
    # What C does not have.
    "admin: clients": "a command of the Perl server, which C does not have",
    "admin: jobs": "a command of the Perl server, which C does not have",
    "admin: help": "C has no help",
    "admin: recurring jobs": "a way of this server, which C does not have",
    "admin: steering a function": "a way of this server, which C does not have",
    "admin: drain": "a way of this server, which C does not have",
    "admin: the access list where there is none": "commands of gear's server, which C does not have",
    "admin: shutdown": "C no longer has the command",
    "admin: graceful shutdown": "C no longer has the command",
    "admin: shutdown in other words": "C no longer has the command",
    "later: a schedule": "C does not implement SUBMIT_JOB_SCHED",
    "later: schedules that make no sense": "C does not implement SUBMIT_JOB_SCHED",
    "workers: all your jobs, unasked": "C refuses ALL_YOURS, which the specification has",
    # Administrative lines.
    "admin: create function with a bare line feed": "mistake: C cuts two bytes off the name, whatever the line ends in",
    "admin: no function is dropped with jobs": "mistake: C frees a function that queued jobs still point to",
    "admin: the name to drop matches exactly": "C ignores case here, and nowhere else",
    "admin: maxqueue of a function not yet seen": "C answers OK and forgets the limit",
    "admin: eleven words": "C closes the connection without a word",
    "admin: blanks at the end": "C takes a blank at the end for one more, empty word",
    "admin: tabs": "C separates words by blanks only",
    # Framing.
    "refusals: types that do not exist": "C closes the connection without a word",
    "refusals: types of 2^31 and more": "mistake: C dies",
    "refusals: too few arguments": "mistake: C looks for the missing NUL in what follows the packet",
    "refusals: a function name that is much too long": "C closes the connection without a word",
    "status: by a unique that is too long": "C closes the connection, or says nothing",
    "later: no time that a calendar has": "C closes the connection, or says nothing",
    # Uniques.
    "submit: a unique of 64 bytes coalesces too": "mistake: C allows 64 bytes and never finds them again",
    "reduce: a unique that is too long": "C checks the length of the reducer only",
    "reduce: without an aggregator, as the specification has it": "C waits for a fifth argument",
    "coalescing: background meets foreground, which leaves": "mistake: C loses the background job",
    "coalescing: foreground meets background and leaves": "mistake: C loses the background job",
    "coalescing: a new client after the only one left": "mistake: C joins the new client to the dead job, and it waits for ever",
    "coalescing: nothing coalesces with a cancelled job": "mistake: C joins the new client to the dead job, and it waits for ever",
    # Workers.
    "workers: a repeated ability counts once": "C counts it every time",
    "workers: a sleeper that learns something": "C does not wake it",
    "workers: priority counts over all functions": "C before 2.0 chooses the function first and then the priority",
    "workers: a worker finishes what it can do no longer": "C takes its jobs away and then refuses their results",
    # Results.
    "reports: an exception for a client that did not ask for exceptions": "mistake: C puts a NUL after the handle",
    "reports: a failure with a NUL at its end": "C passes the NUL on",
    "reports: an exception, and then the failure that many workers send as well": "C answers with an ERROR, of which worker libraries die",
    "reports: after the end of the job": "C answers with an ERROR, of which worker libraries die",
    "timeouts: what comes too late is dropped": "C answers with an ERROR, of which worker libraries die",
    "timeouts: what comes late counts while the job waits": "C refuses it, and the worker goes round in circles",
    "timeouts: a timeout beyond all numbers": "mistake: C dies",
    "timeouts: each job has its own": "mistake: C has one timer for all of a worker's jobs",
    "timeouts: sleep changes no timeout": "mistake: C forgets the timeout",
    "timeouts: the jobs of a worker that goes keep their order": "C reverses it",
    # Clients that go, and cancelled jobs.
    "timeouts: a client that goes before its job runs": "C keeps the job on its books until a worker asks",
    "cancel: a queued job is off the books at once": "C keeps the job on its books until a worker asks",
    "cancel: a running job": "C keeps the job on its books, and passes its results on after the WORK_FAIL",
    # Due times.
    "later: what waits for its time wakes nobody": "C wakes workers at once, for nothing",
    "later: what waits for its time hides nothing": "mistake: C before 2.0 does not look behind a job that waits",
    "later: when its time has come": "mistake: C before 2.0 wakes nobody then",
}
