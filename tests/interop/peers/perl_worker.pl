# A Gearman::Worker of the functions that the interoperation tests use: perl_worker.pl HOST PORT
use strict;
use warnings;
use Gearman::Worker;

my ($host, $port) = @ARGV;
my $worker = Gearman::Worker->new(job_servers => ["$host:$port"]);
$worker->register_function(upper => sub { return uc $_[0]->arg });
$worker->register_function(fail => sub { return undef });
$worker->register_function(raise => sub { die "told to\n" });
$worker->register_function(
    talk => sub {
        my ($job) = @_;
        $worker->send_work_data($job, "part of " . $job->arg);
        $worker->send_work_warning($job, "careful");
        $job->set_status(1, 2);
        return "done";
    }
);
$worker->register_function(
    until => sub {
        my ($job) = @_;
        select(undef, undef, undef, 0.02) until -e $job->arg;
        return "done";
    }
);
$worker->work while 1;
