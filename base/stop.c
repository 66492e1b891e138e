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

void cvx_stop_on_interrupt(void)
{
    static const int interrupts[] = {SIGINT, SIGHUP};
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART | (int)SA_RESETHAND},
                     old;

    sigemptyset(&sa.sa_mask);
    for (int i = 0; i < 2; i++) { /* nohup and a shell's background ignore them: so it stays */
        if (sigaction(interrupts[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) {
            sigaction(interrupts[i], &sa, NULL);
        }
    }
}

bool cvx_stop_asked(void)
{
    return asked != 0;
}
