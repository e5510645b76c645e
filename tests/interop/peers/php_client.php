<?php
// A GearmanClient: php_client.php HOST PORT MODE FUNCTION, the workload on standard input.
// Prints what happens to the job, one event a line, data in hexadecimal.
[, $host, $port, $mode, $function] = $argv;
$workload = stream_get_contents(STDIN);
$client = new GearmanClient();
$client->addServer($host, (int) $port);
$client->setTimeout(20000);
if ($mode === "background") {
    $handle = $client->doBackground($function, $workload);
    echo "CREATED $handle\n";
    // Nobody can do it, so its status stays what it is.
    [$known, $running] = $client->jobStatus($handle);
    echo "KNOWN ", (int) $known, " ", (int) $running, "\n";
    exit(0);
}
function say(string $event, ?string $data = null): void
{
    echo $event, $data === null ? "" : " " . bin2hex($data), "\n";
}
$client->enableExceptionHandler();
$client->setDataCallback(fn ($task) => say("DATA", $task->data()));
$client->setWarningCallback(fn ($task) => say("WARNING", $task->data()));
$client->setStatusCallback(function ($task) {
    echo "STATUS ", $task->taskNumerator(), " ", $task->taskDenominator(), "\n";
});
$client->setCompleteCallback(fn ($task) => say("COMPLETE", $task->data()));
$client->setExceptionCallback(fn ($task) => say("EXCEPTION", $task->data()));
$client->setFailCallback(fn ($task) => say("FAIL"));
$add = ["high" => "addTaskHigh", "low" => "addTaskLow", "normal" => "addTask"][$mode];
$client->$add($function, $workload);
if (!$client->runTasks() && $client->returnCode() !== GEARMAN_WORK_FAIL && $client->returnCode() !== GEARMAN_WORK_EXCEPTION) {
    fwrite(STDERR, "php_client: " . $client->returnCode() . " " . $client->error() . "\n");
    exit(1);
}
