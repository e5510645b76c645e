<?php
// A GearmanWorker of the functions that the interoperation tests use: php_worker.php HOST PORT
[, $host, $port] = $argv;
$worker = new GearmanWorker();
$worker->addServer($host, (int) $port);
$worker->addFunction("upper", fn ($job) => strtoupper($job->workload()));
$worker->addFunction("fail", function ($job) {
    $job->sendFail();
});
$worker->addFunction("raise", function ($job) {
    $job->sendException("told to");
});
$worker->addFunction("talk", function ($job) {
    $job->sendData("part of " . $job->workload());
    $job->sendWarning("careful");
    $job->sendStatus(1, 2);
    return "done";
});
$worker->addFunction("until", function ($job) {
    while (!file_exists($job->workload())) {
        usleep(20000);
    }
    return "done";
});
// A failed job makes work() false as well; what must end the loop is a lost server.
while ($worker->work() || $worker->returnCode() === GEARMAN_WORK_FAIL || $worker->returnCode() === GEARMAN_WORK_EXCEPTION) {
}
fwrite(STDERR, "php_worker: " . $worker->returnCode() . " " . $worker->error() . "\n");
exit(1);
