"""How a market is tuned: the dials in which two markets can differ beside their size and seed.

The default is the market that the sizes tiny, small and large share; `BAZAAR` is another one, so that what was tuned on
the first is judged on a market that its author did not look at.  Read by the parts of the world.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    """Shares, rates and rhythms of a market."""

    random_ctr: float = 0.0265  # mean p of (user, ad, slot) met at random; a ranker gets about one and a half times that
    # Share of a day's visits by local hour: quiet nights, a lunch bump, an evening peak.
    hours: tuple[float, ...] = (2, 1, 1, 1, 1, 2, 3, 5, 6, 6, 6, 6, 7, 7, 6, 6, 6, 7, 8, 9, 10, 9, 7, 4)
    weekdays: tuple[float, ...] = (1.0, 1.0, 1.0, 1.02, 1.05, 0.92, 0.90)  # visits, Monday first
    home_devices: tuple[float, ...] = (0.33, 0.52, 0.10, 0.05)  # users by their usual device: desktop, mobile, tablet, tv
    other_devices: tuple[float, ...] = (0.3, 0.5, 0.12, 0.08)  # visits from another device than the usual one
    campaign_days: float = 14.0  # mean life of a campaign that ends, beyond its first four days
    evergreen: float = 0.35  # share of campaigns without an end
    clicks_at_once: float = 0.7  # of all clicks
    clicks_today: float = 0.92  # at once or later in the session or day, mean 1.5 h; the others come days after
    late_hours: float = 17.3  # their mean
    # Day-to-day noise: standard deviations of the log of a day's visits and of a day's click logit.
    visits_noise: float = 0.0
    logit_noise: float = 0.0


MARKET = Tuning()

# Fewer clicks, a working day's rhythm, phones first, campaigns that come and go, later clicks, and days that differ by luck.
BAZAAR = Tuning(
    random_ctr=0.0165,
    hours=(3, 2, 1, 1, 1, 1, 2, 4, 7, 9, 9, 8, 6, 7, 9, 9, 8, 6, 5, 5, 6, 6, 5, 4),
    weekdays=(1.04, 1.06, 1.05, 1.0, 0.96, 0.74, 0.70),
    home_devices=(0.18, 0.70, 0.07, 0.05),
    other_devices=(0.4, 0.4, 0.1, 0.1),
    campaign_days=10.0,
    evergreen=0.3,
    clicks_at_once=0.6,
    clicks_today=0.9,
    late_hours=20.0,
    visits_noise=0.04,
    logit_noise=0.02,
)
