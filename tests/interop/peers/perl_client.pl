# A Gearman::Client: perl_client.pl HOST PORT MODE FUNCTION, the workload on standard input.
# Prints what happens to the job, one event a line, data in hexadecimal.
use strict;
use warnings;
use Gearman::Client;
use Gearman::Task;

$| = 1;
my ($host, $port, $mode, $function) = @ARGV;
binmode STDIN;
my $workload = do { local $/; <STDIN> };
my $client = Gearman::Client->new(job_servers => ["$host:$port"], exceptions => 1);
if ($mode eq "background") {
    my $handle = $client->dispatch_background($function, \$workload);
    print "CREATED ", (split m!//!, $handle)[1], "\n";
    # Nobody can do it, so its status stays what it is.
    my $status = $client->get_status($handle);
    print "KNOWN ", $status->known, " ", $status->running, "\n";
    exit 0;
}
sub hex_of { return unpack "H*", $_[0] }
my $task = Gearman::Task->new(
    $function,
    \$workload,
    {
        priority     => $mode,
        on_complete  => sub { print "COMPLETE ", hex_of(${ $_[0] }), "\n" },
        on_fail      => sub { print "FAIL\n" },
        on_exception => sub { print "EXCEPTION ", hex_of($_[0]), "\n" },
        on_data      => sub { print "DATA ", hex_of(${ $_[0] }), "\n" },
        on_warning   => sub { print "WARNING ", hex_of(ref $_[0] ? ${ $_[0] } : $_[0]), "\n" },
        on_status    => sub { print "STATUS $_[0] $_[1]\n" },
    }
);
my $set = $client->new_task_set;
$set->add_task($task);
$set->wait(timeout => 20);
