#include "base/stop.h"

#include <signal.h>

static volatile sig_atomic_t asked;

static void on_signal(int sig)
{
    (void)sig;
    asked = 1;
}

void cvx_stop_install(void)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    sigemptyset(&sa.sa_mask);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGUSR1, &sa, NULL);
    signal(SIGXFSZ, SIG_IGN);
}

bool cvx_stop_asked(void)
{
    return asked != 0;
}
