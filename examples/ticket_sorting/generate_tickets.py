"""Write tickets.json: 1000 support tickets for an invented product, sorted into five categories.

The product is *Rotaquill*: shift planning, a time clock, time sheets and invoicing for small firms. (So "invoice" may
mean the bill a customer gets from Rotaquill, or one that a customer writes with it: only reading tells.)

A ticket's category is what it mainly asks for:

* ``billing``: money between the customer and Rotaquill. Charges, invoices from us, prices and plans' prices, discounts,
  refunds, payment methods, contract terms that cost or save money.
* ``technical``: something that exists is broken, wrong, slow or raises an error, whichever part of the product it is
  in (an invoice page that does not load, a login page that is down for all).
* ``account``: who gets in and who may do what. Login, password, second factor, users, roles and permissions, profile
  and e-mail changes, own notification settings, taking over, merging, closing and deleting accounts.
* ``feature_request``: asks for something that the product does not do, also when it is put as a complaint.
* ``other``: all the rest. Praise, complaints about people, press, jobs, partners, sales pitches, training and general
  questions, legal and compliance paperwork, research, tickets that need no answer, and mail meant for somebody else.

How a ticket is made: one hand-written sentence or two that carry the ask (a *phrasing*; four for each of fifty
*scenarios* a category, each used in exactly one ticket), and around it a greeting, a context, a detail such as people
add to asks of that category, an aside in the vocabulary of another category, a closer, a signature and typing noise,
as the writer's tone has it. No two tickets, in one split or in two, share the sentence that carries the ask; what
stands around it comes from common pools. So a ticket with a detail is easy for a bag of words, and one without is hard.
Around 6 % of the tickets are ambiguous (two categories could be defended; the label is the main ask): marked ``?``.

The file's order is the split: 800 to train on, 100 dev, 100 test, 20 of each category in dev and in test. Of these
20, six come from scenarios that the train split has never seen (``!`` below), the others from scenarios it has seen in
other words.

Run it to write the file anew: ``python examples/ticket_sorting/generate_tickets.py``. Standard library only, and
nothing but ``random.Random.random`` is drawn from, so that every Python version writes the same bytes.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

SEED = 20260
T = TypeVar("T")

CATEGORIES = ("billing", "technical", "account", "feature_request", "other")
SPLITS = {"train": 800, "dev": 100, "test": 100}
UNSEEN_PER_CATEGORY = 6  # in dev, and in test: tickets of scenarios that are not in the train split
MAX_SIMILARITY = 0.3  # no ticket is nearer than this to one of another split (Jaccard of 3-word shingles)
MIN_WORDS, MAX_WORDS = 6, 70

# The phrasings. "[scenario | flags]" opens a scenario; each line under it is one phrasing. Flags:
#   ? ambiguous    ! kept out of the train split    = the writer is no customer    ~ the writer is no manager
#   - nothing but the ask    . states something, asks for nothing    ^ may be angry (in "other"; elsewhere anyone may)

BILLING = """
[charged twice]
We were charged twice for {month}, once on {date} and again two days later.
My card statement shows {amt} from you two times. I only have one workspace.
Why did the same subscription go through on both our cards? One of them has to be returned.
You have taken the monthly fee a second time, and nobody here pressed anything.
[refund after cancelling]
I cancelled before the trial ended and {amt} still left my bank. I'd like it back.
Cancelled on {date}, confirmation mail in hand, and the money was taken anyway. Send it back please.
When can I expect the refund {name} promised me? It has been {n} weeks.
It is {m} days that I have stopped the subscription and the sum was not given back to me.
[invoice copy]
Our accountant needs the invoice for {month}, can you send it as a pdf?
Could somebody mail me copies of everything you billed us for last year?
I deleted the mail with {inv} by accident. May I have it again?
Where do I find the receipts for our subscription? Tax office wants the whole of last year.
[vat number]
{inv} is missing our VAT number, so we cannot book it. Please reissue it.
You charged us VAT although we are a registered business in another EU country.
Our tax ID was entered after the last invoice went out. Can the older ones be corrected?
Is sales tax included in the {amt} or does that come on top? We are a charity and exempt.
[card expired]
The card you have on file expires in {month}. Which day do you charge next, so that I replace it in time?
My bank sent a new card and the old number is dead. Where does the new one go?
Got the mail that the renewal was declined, it's only that the card ran out. Try again with the new one please.
Our company card was stolen and blocked; please do not charge it, I will give you another tomorrow.
[price increase]
We used to pay {amt}, now it is nearly double. Nobody told us about an increase.
Your mail says prices go up in {month}. Does that touch customers who have paid for the year?
A {m}% rise in one go, with the same product as before? I want the old rate honoured.
I would like to understand why {plan} costs more this year than when we joined.
[plan comparison price]
What would {m} people on {plan} cost us per month?
Is there a difference in cost between {plan} and {plan2} if only half of the staff use the clock?
I can't work out from the website if the price is per user or per location.
Before I show this to my boss: total per year for {m} staff, all in, no surprises?
[discount nonprofit]
We are a volunteer-run animal shelter. Do you give a discount to charities?
Do schools pay the full rate for {plan}?
Two hundred users at the list price is too much for us. What can you do for a three year deal?
A friend told me you had half price for new cooperatives. Is that still on?
[annual switch]
How much do we save if we pay yearly instead of monthly?
Please put us on yearly payment from the next renewal, and send the bill for it before the end of {month}.
I clicked yearly by mistake and {big} is gone. I wanted monthly!
If I go from annual back to monthly, do I lose what I have paid already?
[seats charged]
You bill us for {m} people. We are {n}. Explain.
Three employees left in {month} but we still pay for their seats.
Added one person on the 30th and paid for the full month. Is that not pro rata?
Do seasonal workers who only log in in summer count as paid seats all year round?
[bank transfer]
Can we pay by bank transfer? Our company has no credit card.
I transferred {big} on {date} with reference {inv}; has it arrived with you?
Please give us your bank details in writing, the finance department refuses to type a card number anywhere.
Direct debit instead of card: possible or not?
[failed payment suspended]
Account says "past due" but I paid on {date}. Here's the bank confirmation number: {ref}.
Third reminder from you about an amount that we settled weeks ago. Stop it.
We got a suspension warning for {inv}. It was paid in full, kindly check your books.
Payment bounced because of a bank holiday. Can you give us until {day} before you shut the door?
[upgrade proration]
We moved from {plan} to {plan2} mid-month and I don't follow the sum on the bill.
If I upgrade today, do I pay the difference or everything again?
There's a line "adjustment -{amt}" on my latest bill. What is it?
I downgraded a week ago. Why is {big} still what you want from me?
[currency]
Can we be billed in euros instead of dollars? The bank takes a fee each time.
The amount in your mail and the amount on my statement differ by {n} dollars. Exchange rate?
I see pounds on the site but I paid dollars. Which is it?
Every month it's another figure because of the conversion. We'd like a fixed amount in our own currency.
[wrong company name on invoice]
The invoice is made out to our old company name. Auditors won't accept it.
{inv} shows the wrong address, we moved in {month}. I need a corrected one.
Kindly put "attn: accounts payable" and PO {ref} on what you bill us from now on.
Could the bill go to the holding instead of to the shop? Same people, other legal entity.
[cancel subscription money]
I want to stop paying. What is the notice period?
Please make sure that nothing is taken from our card after {month}, we are closing the shop.
We won't renew in {month}. Confirm that we owe you nothing further.
If we leave in the middle of the year, do we get the rest of the annual fee back?
[promo code]
The voucher {code} was supposed to give us {m}% off but the checkout took the full price.
I forgot to put my discount code in when I paid. Can you still apply it?
Your newsletter promised three months half price. My statement says otherwise.
Is there a limit on how often {code} works? We have two shops and only one got it.
[sms credits]
What do the text message reminders cost after the first hundred?
We bought 500 SMS credits for {amt} and they vanished at the end of the month. Normal?
Why is there {amt} for text messages on my bill, I thought they came with {plan}?
Refund the unused message credits please, we are not sending texts any more.
[trial converts]
Will I be charged automatically when the trial is over?
I gave my card only for the trial. Promise me it is not debited on {date}.
The trial was supposed to be 30 days and you took {amt} on day 14.
Do I need to enter a card for trying {plan2}, and what is taken on the first day?
[unknown charge]
There is a {amt} line from ROTAQUILL on my statement that I cannot place.
What is the {amt} on {date} for? It is not our usual sum.
My business partner passed away and I keep seeing your monthly debit on his card. Please end it.
Somebody has used our card with your company. We dispute the {big}.
[payment processing fee]
You keep {n}% of each payment our clients make through the links. Can that be lowered for big volumes?
Your cut on card payments was 1.4, on the last statement it is 1.9. When did this change?
How long until the money our clients pay through Rotaquill lands at our bank? {n} days is painful.
The payout of {date} is {amt} short of what our customers paid.
[late fee]
A late fee of {amt}? The bill only reached me on {date}.
Please waive the reminder fee, I was in hospital.
You added interest to {inv} though we agreed on sixty days.
Charging us for being one day late after four years of paying on time is shabby.
[quote]
Can you send a formal quote for {m} users, valid until the end of {month}?
My manager will only sign if there is an offer on paper with the total for two years.
Need pricing for {plan} incl. onboarding. Two sites, {m} people.
I'd like a pro forma so that our purchasing can release the money.
[payer change]
From {month} our head office pays. Which steps are needed so that the bills reach them and not me?
Stop mailing invoices to {name}, she has retired; they should reach accounts@ from now on.
I'd rather not be the one whose private card is debited for the whole team. How can the firm take over the payments?
The bills land with three people here and then get paid twice. One recipient only, please.
[free plan limits cost]
Is Solo really free for ever or does a charge come later?
We have {n} people now and the free plan stops at three. What is the cheapest way to keep going?
Do I have to pay to keep my old timesheets if we go back to the free one?
Does it cost anything to have a read-only accountant in the workspace?
[refund for downtime]
After the outage in {month} you offered a credit. It is not on our bill.
Your service was down for {n} days and we still paid in full. We expect a reduction.
The app was unusable for half of {month}, so I want half of {month}'s fee back.
How do I claim the service credit that your status page talks about?
[charged after deleting]
We closed our workspace in the spring. Why do I still see {amt} every month?
I deleted the account, you confirmed it, and still you debit me.
Old workspace was merged into the new one, yet both get billed.
You are billing an account that doesn't exist anymore, {amt}, since {month}.
[payment page question]
Which cards do you take? Ours is a prepaid one.
Is it possible to spread the annual fee over four quarters?
The checkout wants my postal code and I have none, I live in a country without them. How can I pay?
My bank asks for a code by text for your charge every time and the renewal fails. Other ways to pay?
[add-on kiosk price]
What is the price of the tablet kiosk add-on for a second site?
We never ordered the payroll add-on and it's {amt} a month on our bill.
Does the forecasting module cost extra, or is it in {plan2}?
Took off the kiosk add-on on {date} but the next bill has it again.
[credit note]
We need a credit note for {inv}, the amount was wrong from the start.
Your colleague promised to credit {amt}. I see nothing.
There's a balance of {amt} in our favour. Can it be paid out instead of set against the next bill?
A credit note came without any explanation, what is it for?
[overcharged number mismatch]
{m} times 4 is not {big}. Please check the sum.
The total on {inv} doesn't add up, I get {amt} less.
The price on the order form and the price that you charged are two different prices.
I did the maths three times. You've been charging us for {plan2} while we are on {plan}.
[billing date]
Could our billing date move to the 15th? Salaries go out on the 1st and the account is empty.
On what day of the month do you debit?
Why did the charge come {n} days earlier than usual?
Please align the renewal of our two workspaces, so we have one payment a year.
[purchase order]
We can't pay without a PO number on the invoice. It is {ref}.
Our purchasing dept needs you as a supplier with bank details before they can release {big}.
Can you accept our payment terms of 45 days?
PO {ref} has {amt} left on it. Is that enough for the renewal?
[resent after complaint]
I've asked twice why you took {amt} and got a link to a help page. A person please.
Still waiting on the money from {month}. Do I have to go to my bank and reverse it?
Is anyone there? {big} is a lot for a small café and it should never have left our account.
Last chance before a chargeback: return the {amt}.
[gift or reseller]
We bought the licence through our consultant. Do we pay him or you for the second year?
I purchased {plan} through a marketplace and you billed me directly too.
I'd like to pay for my sister's workspace as a present. How would that work?
The association pays for its members. Can we get a single bill for eleven clubs?
[refer reward]
I recommended you to two salons and the promised free month hasn't been deducted.
Referral credit: {amt} was announced, zero arrived.
Does the friend bonus also apply to the yearly payment?
My neighbour signed up with my link on {date}. When is it taken off my bill?
[minimum contract]
Is there a minimum term on {plan} or can we stop whenever?
The rep said monthly, the contract says 24 months. I am not paying for two years.
What do we owe if we end the agreement before {month}?
How long are we bound at that rate?
[pause subscription]
We close from November to March. Do we have to pay while nobody works?
Can I freeze the payments for {n} months and keep our data?
Our festival runs once a year. Is there a rate for that, or do we have to pay all twelve months?
I was told a pause costs nothing, then {amt} was taken.
[complaint about value]
For {big} a year I'd expect a person on the phone. What does that level cost?
Honestly we can't afford {plan} any more. Is there anything cheaper that keeps the time clock?
It's too expensive for what we use. Talk to me about money or we go.
Your competitor does it for half. Can you match {amt}?
[verification debit]
A 1.00 debit showed up right after I typed in the card. Does it come back?
You reserved {amt} on my card a week ago and it is still blocked.
There are two pending amounts from you, will both be taken?
Why a test charge? I am still on the free plan.
[invoice email not received cost]
I haven't had a bill from you since {month}. Have we been paying at all?
No invoice this month, but the debit came. I need paper for every debit.
Your invoices come after the money is gone. I'd like them before.
{month}'s invoice went missing, and your reminder is already here. Can't pay what I can't see.
[tax form]
We need your tax residency form before we can pay {inv} without withholding.
Withholding tax of {m}% was kept back from our payment. Please count the bill as settled.
Is your service reverse charge for a Swiss customer?
Which VAT rate applies to the kiosk tablets you rent out?
[hardware cost]
We sent back the rented tablet in {month} and still pay {amt} for it.
How much is a replacement badge reader, shipping included?
The deposit for the {n} tablets hasn't been returned.
You billed a broken tablet at full price, it arrived like that!
[crossed plan wording]
We are on {plan} according to the settings, but the bill says {plan2}.
We asked for the small plan and pay for the large one.
Since the plan names changed I have no idea if we still pay for the right thing.
The button said "try {plan2}", not "buy {plan2}". {amt} please, back.
[checkout shows wrong | ?]
The upgrade page shows {amt}, the confirmation {big}. Is this a bug or the new price? I want the lower one.
Checkout hung, I pressed pay again, and now there are two charges.
The seat counter in settings is stuck at {m} and so you bill {m}. We are {n}.
Payment page gave an error yet the money is gone. Where is my {plan}?
[locked for payment | ?]
I can't log in because of an unpaid bill, but the bill is paid. Sort out the payment so we can work.
All my staff are locked out over {amt} which was transferred on {date}!
The owner left and with him the card. We need to pay from another one before you shut us off.
Somebody switched us to {plan2} without my permission as admin, I won't pay for that.
[invoice wish | ?]
Could you print the cost per location on our bill? Our bookkeeping has to divide it by hand.
I'd need one invoice per quarter rather than per month, is that something you do?
Please take off the logo and put the delivery period on the invoices you send us, the tax adviser insists.
We want to pay per shift worked and not per head. Is such a rate available?
[chargeback dispute | !]
I reversed {amt} with my bank by mistake, it was meant for another firm. How do I pay you again?
Our bank opened a dispute about {inv}. Please answer them, we don't question the amount.
The debit was returned unpaid since the limit of the card was too low, it is raised now.
We'd like to settle the {big} you say is outstanding, in three parts if you agree.
[lifetime deal | !]
I bought the lifetime licence in your first year. Why is there a renewal for {amt}?
Early adopters were to keep 3 per head for ever. My last statement says 5.
Does the founding member rate stay if I add {n} more people?
When I take the {m} seat bundle, am I stuck with that figure when we shrink?
[donated seats | !]
Two of our volunteers are unpaid. Must we pay full fare for each of them?
We merged with another clinic that also uses you. Can what they paid in advance be moved over to us?
My predecessor prepaid until {month}; the new contract ignores that.
The reseller went bankrupt after we gave him {big}. Where does that leave us?
"""

TECHNICAL = """
[roster blank]
The roster page stays white since this morning.
When I open the week view I only see the header and a grey box, no shifts.
All our shifts for {month} have disappeared from the board, they are still there on {name}'s phone though.
Schedule loads, blinks and is empty. Same on every computer in the office.
[app crashes]
The mobile app closes itself as soon as I tap on "my shifts".
Since the update on {date} the app crashes on start. Reinstalled it {n} times.
Rotaquill on the tablet quits whenever two people clock in one after the other.
App just dies. Opens, spins, gone.
[invoice page not loading]
The invoice page doesn't load, it only turns and turns. Everything else works.
Clicking on any client invoice gives "something went wrong (E-{n}{m})".
I cannot open the invoicing tab: blank screen after the new design came.
Creating an invoice for a client ends in a 500 page each time I add a third line.
[export broken]
Payroll export produces a file of zero bytes.
The csv from the hours report has all the columns shifted by one.
I start the export, the bar reaches {m}% and then nothing more happens.
Export to spreadsheet cuts off after 1000 rows. We've about 4000.
[clock in fails]
Staff press clock in and it says "try again later". All day long.
The kiosk does not accept the badges any more, red light at each try.
Clock-ins from this morning are not in the timesheet, {n} people affected.
The time clock runs {n} minutes late against every other clock in the building.
[slow]
Everything's extremely slow since {day}, a click takes {m} seconds.
Loading the month takes ages if more than {m} employees are shown.
Why does the approval screen need half a minute? Our internet is fine, I measured it.
It is since one week that the system is working very slowly in our office.
[notifications]
Nobody gets the shift reminders, neither mail nor push.
Employees receive the same notification {n} times in a row.
Shift reminders arrive at 3 in the night although they're set for 18:00.
Text reminders go out to people who aren't even on the shift.
[calendar feed]
The calendar feed shows shifts one hour off since the clocks changed.
My shifts stopped showing in the calendar on my phone on {date}. Removing and adding the link did nothing.
The iCal link returns 404 for about half of our people.
Cancelled shifts remain in the synced calendar forever.
[payment link broken]
Our clients press "pay now" on the invoice and get a page full of code.
The payment link in the invoices goes to a security warning. Customers call us about it.
A client has paid {amt} through the link, and the invoice still stands there as open, status does not refresh.
Card form on the client payment page has no submit button on a phone.
[login page error]
The login page itself doesn't come up, just "502 bad gateway".
After pressing sign in the button greys out and nothing follows, for everyone in the company at once.
Since the update, Rotaquill throws every one of us out after about {n} minutes in the middle of typing.
The page reloads itself in a loop when I come from the login, on each of our machines.
[password reset mail delayed server]
None of your mails arrive with us since {date}, resets, reminders, nothing. Our IT says your server gets rejected.
System mails come {n} hours late. By then the links in them have run out.
Links in your emails open a page with a certificate error.
Every notification mail from you has broken characters in place of é and ü.
[drag and drop]
Can't drag shifts any more, they jump back to where they were.
When I move a shift to {day} it's saved on the day before.
Copying last week puts everything on top of one another.
Dropping a shift on a person makes a duplicate instead of moving it.
[timesheet totals wrong]
The total in the timesheet is wrong: 8 + 7.5 + 8 gives 31.5 in your software.
Overtime is counted double for anyone who works past midnight.
Breaks aren't deducted from the hours since the last release.
Hours for {name} show as negative, minus {m}.
[save fails]
Changes aren't saved. I edit a shift, press save, and after a refresh the old one is back.
"Unable to save, conflict detected" whenever I touch next week.
I typed the whole plan for {month} and it's gone, for the second time now.
Save button does nothing at all, no message, nothing.
[file upload]
Uploading a sick note fails with "unknown type" though it's a plain pdf.
Photos of receipts turn up sideways or not at all.
The staff import rejects my file at row {m} without saying why.
Logo upload for the invoice template gives error {n}0{n}.
[api errors]
Your API answers 429 even when we send one call per minute.
Webhooks for shift.updated haven't fired since {date}.
The /timesheets endpoint returns the hours of the wrong week when a time zone is given.
Our integration gets "invalid token" every night around {time} and recovers by itself.
[search]
Search finds nobody, even when I type the exact name.
Filter by location ignores what I choose and shows all {m} people.
Looking for José gives no result, Jose neither.
The search field freezes the tab after three letters.
[print]
The printed roster cuts off Saturday and Sunday.
Printing gives {m} empty pages and one with half a table.
Colours are gone from the printed plan, black boxes only.
The pdf of the weekly plan has names on top of names.
[time zone]
Our second shop is in another time zone and all its shifts show up {n} hours too early.
After the change to summer time all night shifts are an hour too long.
The system thinks we're in Alaska. Setting it back doesn't hold.
Times on the kiosk and on the web differ by exactly an hour.
[shift swap bug]
Swap requests go through but both people stay on the shift.
{name} accepted a swap, and now nobody is on it.
The swap button does nothing on the phone.
Approved swaps come back as pending the day after.
[offline tablet]
The kiosk says "offline" although the tablet has full wifi.
It lost {n} hours of clockings when the connection dropped.
Tablet does not sync after a power cut, stuck at "waiting for server".
Our kiosk shows yesterday's staff until somebody restarts it.
[browser display]
Since last night the menu covers half the screen and can't be closed.
Text overlaps in the leave overview, impossible to read.
On my laptop the approve button lies below the edge and there's no scrolling.
All of the icons have turned into little squares.
[leave balance]
Leave balance shows {m} days for a person who has {n}.
Approved holidays don't appear on the board, so we plan people who are at the beach.
Rejecting a leave request gives "null" in a red box.
Carry-over days of last year were wiped at new year for the whole team.
[report wrong]
The labour cost report shows {big} for a week in which we were closed.
Forecast graph is flat at zero since {date}.
The attendance report counts everyone as late, including those who were on holiday.
Report mails arrive empty, only the title and no rows.
[security certificate]
Our virus scanner blocks your desktop widget since the latest version.
The browser warns that your site isn't safe, since {time} today.
Your new release is flagged by our firewall and the board never finishes loading.
Mixed content warning on the kiosk page, the photos don't show.
[duplicate records]
Every employee appears twice in the list after the import.
Each shift I create is created {n} times.
Timesheets of {month} have been doubled overnight.
Two copies of the same client show up in invoicing and the hours are split among them randomly.
[numbering invoices]
The invoices we make for our clients all got the same number, {inv}.
Tax on our client invoices is calculated on the total with tax, so twice.
The due date on customer invoices is printed as 01/01/1970.
Rounded amounts on client invoices are off by a cent, and not always in the same direction.
[language display]
The kiosk jumps back to Polish by itself after each restart.
Half of the menu is in German since {day} though I set English.
Dates flip between day/month and month/day from one screen to the next.
Arabic names come out as question marks on the badge.
[permissions glitch]
The system shows "you have no rights for this" to everybody, admins included, on every page since the update.
Some screens flicker between manager view and staff view while I look at them.
The settings page is an endless spinner, for the owner too.
Employees suddenly see an empty page under "team"; no one has touched anything.
[gps]
The location check says I am {n} km away while I stand in the shop.
GPS clock-in never gets a fix inside our warehouse since the update, before it did.
The map shows our site in the sea.
Geofence lets people clock in from home, it doesn't check anything.
[video help broken]
Video in the help centre doesn't play, and the chat bubble gives an error.
The tutorial overlay hangs over the page and won't go away.
"Next" in the setup wizard does nothing at step {n}.
I can't finish the first setup, it always falls back to the first step.
[status outage]
Is Rotaquill down? {m} people are standing at the door and can't clock in.
Nothing works here. Status page is all green, sure.
Complete outage at our three sites since {time}.
Is there an incident? We get time-outs on everything.
[battery]
The app drains my phone, {m}% in an hour, with the screen off.
My phone becomes hot when the app is open.
It's eating up {n} GB of mobile data per week, what is it doing?
The app keeps the GPS on all night after clocking out.
[undo / data loss]
One click on "clear week" and the entire quarter is empty. Can you restore it from a backup?
Comments on shifts older than {n} days are all gone.
I restored an archived site and it came back without its people.
Attachments on the leave requests can no longer be opened.
[integration accounting]
Hours sent to our accounting package arrive with 0.00 as rate.
The sync to payroll stopped with "mapping missing" and the mapping is there.
Connection to the accounting software breaks every {n} days and has to be set up anew.
Invoices pushed to the bookkeeping arrive without customer numbers.
[chat]
Messages in team chat come out of order, or hours later.
Team chat shows {n} unread for ever even though there is nothing.
I can't send pictures in the chat any more, they hang at "sending".
Chat messages land in the wrong location's channel.
[auto scheduling]
Auto-fill puts the same person on two shifts at the same time.
The auto planner runs for an hour and then says "no solution", with one shift to fill.
Auto-scheduling ignores availability since {date}.
It assigned {name} to {m} days in a row without a day off, the rule for it is on.
[date picker]
The date picker won't let me choose the 31st.
Next year's weeks are numbered wrong, week 53 is there twice.
I click on {day} and it selects the day after.
The calendar widget ends in December, we can't plan January.
[barcode badge]
The QR badge is printed so small that the reader can't read it, was okay before.
The scanner reads each badge as the first employee in the list.
Kiosk camera stays black on the new tablets.
PIN pad swallows every second digit.
[unsaved filter view]
My saved views vanish each time I sign in.
Sorting by name jumbles the hours, they no longer belong to the person in that row.
Column widths and filters reset themselves after every reload.
Collapse a team and the totals of all teams go to zero.
[email template]
The weekly mail to staff shows %first_name% where the name should stand.
Links in the roster mail lead to last year's roster.
Mails to staff go out in duplicate with two different rosters.
The published roster isn't mailed to anyone who has a dot in the address.
[tax report rounding]
Quarter hours get rounded down for some people and up for others, with the same rule.
A 30 minute break turns into 0.05 hours in the summary.
Holiday pay column calculates with last year's rate whatever I enter.
Night premium is missing for shifts that begin before 22:00.
[second factor on screen | ?]
The six-digit field takes only five digits on the phone, so no one on that app version gets in.
QR code for two-step sign-in isn't drawn, there's a broken picture instead.
Sign in with the company account ends in "state mismatch" since your update, for all {m} of us.
The reset page shows an error 500 after I type the new password. Tried three browsers.
[checkout | ?]
The upgrade button doesn't react, I'd gladly pay you but it's broken.
Our subscription page shows {amt} one minute and {big} the next. Looks like a display fault.
Downloading your invoice {inv} gives an empty pdf.
Form for the new card freezes at "verifying", with every card and on every machine.
[missing or bug | ?]
There used to be a copy button on the week view. Where has it gone? It's not there since the update.
Sort by surname does not exist in the new version, in the old it worked. Please repair.
The board only shows two weeks at a time now. Before it was four.
Dark mode is gone after yesterday's release.
[widget / watch | !]
The desktop widget shows last {day}'s shift for ever.
On the watch the next shift reads "undefined".
Voice assistant reads my shift out in the wrong order, evening first.
The big screen in our canteen shows a sad face instead of the plan since {date}.
[signature capture | !]
Signing the timesheet with a finger leaves only a dot.
Signed timesheets flip back to unsigned overnight.
The signature pad appears upside down on the tablet.
A signed sheet turns up under another employee.
[weather / events feed | !]
Public holidays are shown on wrong dates for our region.
The weather strip over the roster has been stuck at {n} degrees for weeks.
Demand numbers from the till stopped coming in around {time} yesterday.
Labels I put on events come out as random letters.
[money words, broken screen]
The tab where I look up what we owe you throws an error, so our bookkeeper can't download a thing.
Entering a refund for one of our own clients makes the invoicing module hang, and the amount is left out.
The price per hour that I set for a client turns back to 0 whenever I leave the page.
Discounts on our quotes get applied twice, the customer sees a total that is far too low.
[people words, broken screen]
Adding a user spins for ever and then no user is there. Tried with {n} different people.
The profile page can't be opened by anyone, it loads half and stops.
Saving a role gives "unexpected token" in red, whichever role it is.
The list of admins renders with empty rows since your last deploy, I see lines but no names.
"""

ACCOUNT = """
[forgot password]
I forgot my password and the reset mail goes to an address I no longer have.
Need a new password please, mine stopped being accepted after my holiday.
My colleague {name} can't remember her password, can you send her a link?
Password unknown, security question unknown, please let me in again.
[locked out attempts]
I typed the wrong code five times and am locked out now.
"Too many attempts" is all I get. How long must I wait?
{name} is blocked after mistyping, he has to publish the plan by {time}. Unlock him?
Please lift the block on my sign-in, it was caps lock, not a hacker.
[lost phone 2fa]
My phone fell into a lake and with it the authenticator. How do I get in?
New phone, no codes, no backup sheet. Help.
Could you switch off the second factor for {name} till he has a phone again?
I get asked for a six digit code that only my ex-colleague's phone can make.
[change email]
I married and have another e-mail address now, how can I change it for the sign-in?
We're moving to a new domain: all {m} addresses have to change. Can this be done in one go?
My address is misspelled in your system, so that I never get the confirmation.
Where can I change the address under which I'm registered?
[add admin]
How do I make {name} an administrator too?
I'm going on parental leave and a second person must have full rights before {day}.
Please give {name} the same rights as me.
Our new office manager needs to be able to do everything I do, what must I tick?
[remove user]
{name} doesn't work with us any more, I want him out of the workspace today.
An employee who was let go can still sign in. Take away the access now!
How can I take out someone without losing her old hours?
Which steps remove a freelancer's login once the project is over?
[delete account]
Please delete my account and everything in it.
I don't work in shifts any more. Remove my profile.
How do I close the workspace for good?
We've stopped using the tool; I'd like our data and logins wiped by the end of {month}.
[owner left]
The owner of our workspace has left the company and nobody can take over. What do you need from us?
Our director died and he was the only admin. How can we get hold of the workspace?
Transfer the ownership from {name} to me please, she agrees and is in copy.
The agency which set up our workspace is still the owner. We want that to be us.
[roles permissions]
Shift leads can see everyone's hourly wage. How do I take that away from them?
I'd like {name} to approve leave and nothing else.
What's the difference between a manager and a planner as a role?
Which rights does someone need to publish a roster?
[cannot see | ~]
Since my promotion I still see only my own shifts. I should be seeing the team's.
I was invited to the location on the harbour but don't see it in my list.
It says I am not allowed to open invoicing. My boss says I should be.
My settings menu is shorter than my colleague's, what right am I missing?
[invite expired]
The invitation to join our team has expired, can I get another?
{name} says that her invite link was already used. She has not used it.
I invited {m} people and only {n} came in; please send it to the others again.
The invite went to my old work address. Can it be sent to this one?
[sso]
We'd like our staff to sign in with the company login. What do we have to configure on our side?
How do I force single sign-on for all except the kiosk user?
Our identity provider changes on {date}; what must we swap in the settings?
Need your metadata file for SAML, our IT sets it up on {day}.
[two accounts merge]
I have two profiles by mistake, one private and one for work. Make it one please.
My hours are spread over two logins. Could they be put together?
{name} signed up twice and now gets planned under the wrong one.
Can the workspaces of our two shops be joined, keeping everybody's login?
[name change]
My name changed from {name} to something else, please use the new one everywhere.
How do I correct a typo in my surname? The field is grey.
Employee changed gender and first name, the old name must not appear anywhere.
We've rebranded: where does the company name get changed in the settings?
[suspicious login]
I got a mail about a sign-in from a country I've never been to.
Somebody changed my shifts under my name. I think that my access has been stolen.
Please log me out of all devices, I left a tablet on the train.
Who has signed in to our workspace on {date}? I don't recognise the entry.
[phone number change]
I have a new mobile number. Where do I enter it so that the codes reach me?
Codes go to {name}'s old number, she needs them on the new one.
Remove my private number from my profile please.
My number is taken, says the form. It's my number!
[username taken | ~]
It says that my e-mail already exists. I never registered here.
I want to sign up with our office address but somebody already did.
Registration with "this domain is managed by another team", who is that?
My old employer made a profile for me, and at the new one I can't register.
[kiosk pin | ~]
What's my PIN for the time clock? I'm new.
All PINs were handed out in the wrong envelopes, how do I give everyone a new one?
{name} and I have the same PIN, is this allowed?
I'd like to change the four digits that I type in at the entrance.
[reactivate]
Our workspace was deactivated over the winter. We open in {month}, please switch it on.
I deleted {name} by accident, can she come back with her history?
Seasonal people from last year return. How do I make their profiles active again?
I closed my account on {date} and regret it. Is it still there?
[profile picture etc]
How does one change the profile picture?
My profile shows the old department.
I'd like to hide my birthday from my colleagues.
Where do I set the language for my own login?
[leaving company data | ~]
I've quit. How do I get my own hours out before my boss removes me?
I left the hotel in {month} and still receive their shift mails. Take me off.
As a former employee I want to know which of my data is stored in my profile and have it erased.
Does my profile move with me when I start at another company which also uses Rotaquill?
[guest accountant]
Our accountant should look at timesheets but touch nothing. Which role is that?
How do I invite an external bookkeeper without giving her the wages?
The auditor needs access for {n} days only. Can one put an end date on a user?
I'm a tax adviser and look after {n} of your customers, can I have one login for all?
[bulk users]
How can I add {m} new starters at once?
We'd like to change the role of everyone in the kitchen together.
Is there a way to deactivate all temps on the same day?
I need a list of who has access to what, for our yearly check.
[api token rights]
Who's able to create API keys? I don't find it in my menu.
Please revoke the key that {name} made, she has gone.
Our developer has no rights for webhooks, where do I give them?
I lost the API secret. How do I get a new one?
[recovery codes]
I've used up all my recovery codes. Where are new ones?
Where do I find those ten backup codes you talk about?
The recovery code that I wrote down isn't accepted, maybe I mixed up 1 and l.
Can admins see the backup codes of employees?
[session timeout]
Can I stay signed in for longer than a day on my own computer?
For safety reasons we want people to be signed out after {n} minutes. Where's that setting?
I have to enter my code every single time, can't it remember this laptop?
How many devices can one person be signed in on?
[enforce 2fa]
How do I make two-step sign-in compulsory for all managers?
We turned on the second factor for all, and our cleaners have no smartphones. What now?
Two-factor by text or by app: how can a user choose?
I'd like to turn off the verification code, I'm the only one here.
[locations membership]
{name} transfers from the airport to the old town, how do I move her profile?
I'm listed under {n} locations and should be in one.
Take me out of the "night team" group, I'm on days now.
Our supervisors should only see their own site, at present they see all.
[email verification]
I never got the mail to confirm my address. Nothing in spam. Can you confirm it by hand?
The confirmation link was opened by my boss, now my profile has his name.
It tells me to verify my e-mail first, but I have no access to that mailbox any longer.
The verification went to {name}, it should go to me.
[shared login]
We've all used one login so far. How do I split it into one per person?
Is it okay if the whole reception shares a password?
My wife and I run this together with the same e-mail address. Can both of us have a profile?
We want one user for the tablet behind the bar, without a person behind it.
[notification preferences]
How do I stop the mails about each swap? I mean for me, not for the others.
Please unsubscribe my profile from roster mails, I'm the payroll bureau.
I want pushes only for my own shifts, where in my settings is that?
Who decides if I get texts, me or my manager?
[admin rights lost]
I was admin yesterday and today I'm ordinary staff. Who did this?
{name} took away my rights by mistake and can't give them back.
I removed the tick at my own name, now nobody is administrator.
Since the change of plan I'm not shown as owner any more. I need to be.
[wrong workspace | ~]
I sign in and land in the workspace of my former employer.
How do I change between my two companies? I only get one.
I created a new workspace by mistake instead of joining ours.
My login opens the demo and not our real company.
[workspace address]
Can our workspace have another web address? The old one has the name of the former owner.
We'd like a different subdomain for sign-in.
The short name in our sign-in link has a typo, please correct it.
What happens to the logins if we rename the workspace?
[sign-in as employee]
Can I look at the app as one of my employees sees it, with my own login?
One of my staff has no e-mail. How does he sign in?
Our older colleagues can't handle passwords. Which other ways of signing in are there?
Do under-18 apprentices need the consent of a parent for their profile?
[access after payment move]
The bookkeeper should reach the subscription page without being admin, which right is it?
I pay for this but I'm not allowed to open the plan page. Make me the owner.
{name} must not see the invoices any more, she changed departments. How do I set that?
Who in our workspace is allowed to change the card? I want it to be only me.
[password policy]
Why do you force a new password every {n} weeks? Can I turn it off?
Our policy says twelve characters at least. Where is it set?
It refuses my new password, "used before". I can't think of another one.
The password came by post, is it only valid once?
[managers approve signups]
People sign up by themselves with our link, I want to approve them first.
Strangers are in our list of employees. How do they get in and how do I throw them out?
The join code is going round in a chat, please void it.
Where do I turn off self-registration?
[identity proof]
You want proof of identity before giving me the workspace back. Is a scan of the trade licence enough?
I've sent my papers on {date} so you restore my access. How long does the check take?
Your agent asked for the last four digits of my number to unlock me, is that genuine?
I can't prove that I am the owner as all mails went to the old manager.
[archived user sees]
Does an archived user still have access through the app?
I've suspended {name} but her phone still shows the roster.
If I change someone to inactive, is the person told about it?
A leaver keeps being listed under the active staff, how do I file him away?
[delegate]
I'm away {n} weeks, how can {name} approve in my place?
Can I hand my approvals to two people at the same time?
My deputy sees the requests but has no approve button, what is missing in his role?
My stand-in from the summer still approves, I'd like to take that back.
[logged out new device]
New laptop, and it doesn't know me. My password manager is on the old one.
I need to get in from a hotel computer, but it wants a confirmation on my office phone.
After my tablet was stolen I changed the password. Is the thief out now?
It wants me to approve this device on another device. I have none.
[age / department data | ~]
My start date in the profile is wrong and so my seniority is too.
Please set my contract from part-time to full-time in my profile, HR sent me to you.
How do I change my employee number? {m} is somebody else's.
Can I delete my home address from what colleagues see?
[login or broken | ?]
I can't log in on the app, on the web I can. Password's the same. It just says "invalid".
The reset link says expired the minute I get it. I only want to get back in.
My code is always wrong, {n} tries, the clock of the phone is right. Let me in please.
Sign-in throws me back to the start without a word, but only with my user, all others are fine.
[account and pay | ?]
Close our workspace and end the plan with it, I'm the owner and don't want any login left.
We pay for {m} users and I can only invite {n}. Please let me add the rest.
Put the workspace in my name, I've taken over the shop including its subscription.
Please remove my card and my user, I don't want to be known to you any more.
[account wish | ?]
Is there a role that can plan but not see wages? I don't find such a thing in the list.
I'd love to have staff sign in with a badge and not a password, how is this done?
Could you let {name} have two roles at a time, planner here and staff there?
I want a login for my assistant that can only read my mail alerts, how do I make it?
[hacked / abuse | !]
An ex-employee is writing abuse in our name through the workspace. Block him.
Phishing: I typed my details into a fake copy of your site. What must I change first?
Someone pretends to be me and asks my team for their PINs.
A parent has signed in with his son's details and declined his shifts.
[passkeys | !]
How do I register the fingerprint reader of my laptop for signing in?
The security key was lost, I have a spare one, where do I swap them?
Which of my keys is which? All of them are called "key" in my list.
I'd like to go back from passkey to password.
[union rep / observers | !]
The works council shall look at rosters, but not at names. Which rights do we give?
Our intern's rights should end with the internship on {date}.
Franchise partners see each other's staff. Please separate them.
I was asked to confirm {n} pending members. Where's that list?
[contact preferences profile]
My middle name is printed on the door display. Take it out of my profile?
We use nicknames here, how can I be shown as "Zé" to the others?
Where do I enter my pronouns in the profile?
I want to be found under my stage name, with the legal name only for HR.
"""

FEATURE_REQUEST = """
[dark mode]
A dark theme would save my eyes on night shifts.
When will there be a night mode in the app? All others have one.
My retinas burn at 4 am. Black background, please, some day.
Could you think about a darker colour scheme for the kiosk?
[recurring shifts]
I need shifts that repeat every third week, you only offer weekly.
Why can one not set up a pattern like two on, three off? I build it by hand each time!
It'd help us to have rotating patterns which roll on by themselves.
Suggestion: templates for the roster that span {n} weeks.
[bulk edit]
Let me tick ten shifts and change the start for all of them together.
Editing {m} shifts one after the other is torture. There should be a way to select several.
Multi-select on the board, pretty please?
I'd want to move a whole team's week by one day with a single action.
[export formats]
Besides csv it would be great to get the hours as a proper spreadsheet with formulas.
We need an export that our payroll bureau's format accepts. Any plans?
Can you make the report come as JSON as well?
An export by cost centre is what keeps us from dropping our own sheet.
[scheduled reports]
Mail me the overtime report each Monday, automatically. Now I have to click for it.
Reports on a timer, that's all I want.
I wish that the attendance list would be sent to the site managers by itself at {time}.
Do you intend to offer scheduled exports to a folder?
[shift bidding]
Please let staff bid on open shifts, with the oldest contract first.
We'd like an open shift pool where people pick what they want and I confirm it.
It's a pity that nobody can offer a shift to only one colleague.
Waiting list for popular shifts: anything planned?
[weather/till forecast]
Couldn't the planner look at the weather? When it's sunny we need double.
Connect the roster to our till, so it knows what a Friday is worth.
Staffing suggestions on the basis of bookings would be gold for our restaurant.
Imagine it warned me when a public holiday makes us short. It could!
[wage display]
Show the cost of the week while I'm planning it.
Staff keep asking what they have earned so far this month, could the app display it?
A traffic light once the budget for the week is used up, this is what we miss.
I'd pay more if the board had a running total of wages per day.
[split invoices]
For our client invoices I'd like to bill by shift type, nights at another rate.
Give us partial payments on the invoices we write, clients pay in two halves.
We miss a field for the client's PO number on our invoices.
Late clients should get a reminder by themselves. I write these by hand now.
[multi currency invoices]
We invoice customers in three currencies, your invoicing only knows one.
Would you consider Swiss QR slips on invoices?
Let us choose a language per client for the invoice, half of ours read French.
Credit notes for clients can't be made in your software. We need them.
[two factor wishes]
Please support hardware keys for sign-in, codes by text aren't good enough for our insurer.
Will you ever allow face unlock in place of the password on phones?
Staff should be able to log in with a badge on the web too, not just on the kiosk.
A magic link instead of passwords would spare me twenty calls a month.
[custom roles]
The fixed roles don't fit us. I'd like to be able to build my own.
Add a right for seeing a roster without phone numbers, now it's all or nothing.
There's no way of giving rights per location and per weekday. It should be thought of.
A trainee role that needs a co-sign for everything would be perfect.
[audit log]
I want to see who changed which shift and when, there is no history at all.
A change log per shift, like in text documents?
Every argument here ends with "it wasn't me". Keep track of the edits, please.
We'd need the record of permission changes to be kept for a year, today it's not kept.
[language support]
Do you plan a Portuguese version? Half of the crew doesn't read English.
Welsh, please! The council requires it of us.
It would be kind to offer right-to-left for our Arabic-speaking colleagues.
The kiosk could greet everyone in their own language, how about it?
[calendar two way]
The calendar feed is one way. We'd like that what I enter there blocks me here.
Pull my private appointments in as unavailable, without showing what they are.
Can the sync be a matter of minutes rather than a day? At present it is by design slow.
Meeting rooms in the same calendar as the people: that would help us.
[availability]
Staff should be able to say "rather not" and not only yes or no.
Availability for the entire school year, not week by week, would be a relief.
Please think of a limit for how often someone may block Saturdays.
Let students paste their lecture timetable as unavailable time.
[api wishes]
The API has no endpoint for leave requests. Could there be one?
We'd build it ourselves if you had webhooks for clock-ins.
A sandbox for developers, to not test on real people?
GraphQL or at least filters in your API, fetching {m}000 rows for one name is silly.
[watch / widget]
My next shift on the lock screen, could you do that?
Wish list: a watch app to clock in.
An app for the desktop would be welcome, I always lose the tab.
Smart TV view of today's roster for the canteen wall?
[offline mode]
Our building site has no network. A real offline mode is needed.
The clock should go on working without internet and send it all later.
Let people see last week's roster in a cellar without reception.
We work on ships. Do you foresee anything for weeks without a connection?
[messages]
Read receipts in team chat would settle many a dispute.
I'd like to pin a message at the top for everyone who starts a shift.
Chat needs a quiet mode after work, our union asks for it.
Polls! Who comes to the barbecue, who can work on {day}.
[skills]
Let me tag people by certificate and warn me if there's nobody with first aid on the shift.
It's not possible to say that a forklift licence ends in {month}. I want it to be.
Could shifts demand a skill, so the wrong person cannot be dragged there?
Language skills per person, visible while planning, are missing.
[legal rules]
The planner should refuse less than eleven hours of rest, right now it lets me do anything.
Warn me about minors after 20:00. We got fined!
There ought to be a check of the maximum weekly hours before publishing.
Configurable break rules by country would get our French branch on board.
[mobile planning]
I can only plan on a computer. Give the app that too.
Managers are on their feet all day, so approving timesheets on the phone is what we lack.
Landscape view on tablets with the whole month: please.
The phone app has no copy week. Will it come?
[print layout]
Print view with large letters for the pin board?
One page per person when printing, that's something that we'd use each week.
Allow our logo on the printed roster.
Let me choose which columns get printed, phone numbers shouldn't hang in the hallway.
[notes on shifts]
Add a checklist to a shift, the closing crew forgets the fridge.
There is no place to put handover notes. Think about it?
I would like to attach a floor plan to the shift.
A photo after cleaning as proof, uploaded on clock-out, would be our dream.
[swap rules]
Swaps should need a manager only if it creates overtime.
Restrict who can swap with whom. Cooks shouldn't trade with drivers.
Could a swap be split, so two people each take half of the shift?
It annoys me that swap requests never run out. Give them a deadline.
[leave types]
We have "moving day" and "wedding leave" here, own leave types can't be made.
Half-day holidays, when do they arrive?
A year view of everyone's holidays is missing, I draw it on cardboard.
Could the leave calendar show school holidays underneath?
[gps/geofence options]
Circles around the site are useless to us, we need to draw the area.
Clock in by scanning a sticker at the door, that's cheaper than tablets.
Ask for a selfie at clock-in, buddy punching costs us a fortune.
Let mileage between two jobs be counted from the clock-ins.
[expenses]
I'd like the crew to hand in their parking receipts together with the hours.
Tips! We split them by hours each evening on paper, you have all the numbers.
Meal allowances by shift length, could you calculate those?
A field for cash advances to staff would round it off.
[dashboard]
Put late arrivals, open shifts and birthdays on a single start page.
Why is there no overview across our {n} locations? I've got to click into each.
Own charts would be grand, the three that you have don't tell me a thing.
Compare this year's {month} with last year's next to each other, can you build it?
[search/filter wishes]
I can't filter the board by contract type. Why not?
A search over everything, people, clients, notes, would speed me up.
Let me save a filter and give it to my deputy.
Sorting the staff by hand in my own order, please.
[keyboard shortcuts]
As a power user I beg for keyboard shortcuts.
Undo! Ctrl+Z on the board! How can a planning tool in this century not have it?
Right-click menu on shifts would halve my clicks.
Copy and paste between weeks doesn't exist and it should.
[onboarding of staff]
Let new starters fill in their own papers on their phone, prior to day one.
Contracts to be signed in the app, have you thought about it?
We'd love to keep ID copies with an expiry warning within the profile.
A shadowing shift for new people, which doesn't count in the headcount?
[client portal]
Our customers want to see who comes to them, give them a small portal.
Let clients approve the hours before I invoice them.
A page where clients book extra shifts for themselves would save so many calls.
The client should get a mail if the carer is late, can this be thought of?
[plan packaging wish | ?]
I'd only want the time clock on its own, without the rest. Make such a package?
Pay per day for event workers isn't something you have. It should be.
A family of shops needs one umbrella workspace with a single bill. Will you make it?
Gift cards for referrals in place of a discount, just an idea.
[sandbox/draft]
Draft rosters that I can show to a few people before all see them.
Two versions of next week side by side, then pick the better: an idea for you?
Lock the past, so nobody edits last month's hours. It is wide open today.
A test workspace in which I can try things without mailing everyone.
[accessibility]
Larger buttons on the kiosk please, we wear gloves.
Colour-blind friendly shift colours would help me and two colleagues.
Reading the roster out loud for a blind team member isn't supported, can it be?
High contrast for outdoors, in the sun I see nothing.
[clock rules]
Round clock-ins to the rota start when it's less than {n} minutes, that can't be set.
I'd like a grace period prior to someone counting as late.
Should be able to stop people from clocking in before their shift.
Remind the forgetful to clock out, say after twelve hours.
[automatic escalation]
If nobody takes a sick colleague's shift within the hour, text the next on the list. Doable?
A standby list which the system calls up by itself, please.
When someone reports sick I want open shifts to be made from theirs, in one step.
Sick notes by chat bot, my staff would love it.
[complaint phrased]
I can't believe that in {n} years you haven't managed a simple month view.
It's ridiculous there's no way to hide leavers in reports, who designs this?
Every rival has shift colours by location. You? Nothing.
Each week I retype the same {m} shifts as your tool knows no favourites. Do something!
[undo publish]
Once published, a roster can't be taken back. Let us un-publish!
Please add "publish on {day} at {time}" rather than only now.
Publish by team instead of all at once, that would fit how we work.
Staff should confirm that they've seen the roster, with a tick I can see.
[archive wishes]
Let me archive clients, the drop-down is endless.
Folders for locations, we have {m} of them in one flat list.
Favourite clients on top, could it be so?
Colour tags for clients, by how fast they pay :)
[reminder wishes]
Let each person choose how long before the shift the reminder comes.
Reminders over messenger apps instead of text, our crew live there.
Could the app wake me? A real alarm {n} hours before an early shift.
Voice calls as reminder for those without smartphones would be needed.
[request or bug | ?]
The total row at the foot of the week doesn't count breaks. Please make it do so.
Timesheets can't be sorted by surname, that's half broken to my mind. Add it.
Names longer than {m} letters are cut on the board. Let them wrap.
The board doesn't refresh until I reload. I'd like it live.
[request account/billing | ?]
I want to set a monthly spending cap for text messages, there's no such thing at present.
Let admins reset PINs themselves in bulk. Now we have to mail you each time.
Couldn't the bill be split by location so each shop pays its share? Please build that.
Logins that end by themselves at the contract's end date, please make it possible.
[request vs other | ?]
Is a Spanish help centre on your list? We'd read it.
Could you hold your webinars also in the evening and put a booking button in the app?
A user forum where planners swap templates would be fantastic.
Have you ever thought of a printed handbook that ships with the tablets?
[mood / wellbeing | !]
At clock-out, ask how the shift was, with a smiley. We'd use that.
Count how many nights in a row somebody did and tell me it's unhealthy.
Fair distribution of Sundays over the year, shown as a number: nowhere to be found.
Let people wish for a buddy on their shift.
[vehicles / assets | !]
We plan vans as "employees" since you have nothing for vehicles.
Let rooms be booked along with the therapist.
Key handover per shift, who has which key: I'd like to track this.
Uniform sizes and lockers, somewhere in your system, please?
[carpool / travel | !]
Suggest car pools among those with the same shift.
Take travel time between clients into account when you auto-fill.
A map with today's jobs and who's nearest would change our life.
Estimate of the commute when assigning people, can you add that one day?
[import wishes]
Importing from our old planning tool isn't offered, we'd have to type in {m} people. Could you add it?
Read the staff list out of our HR system every night, that would be the thing for us.
Scan our paper time cards and turn them into hours, is it on your roadmap?
Let me upload a photo of the hand-written roster and have it recognised.
"""

OTHER = """
[praise | .]
Just wanted to say that {name} in your support was wonderful yesterday.
No question at all. You make our mornings easier and I thought you should hear it.
Your tool has ended twenty years of pencil and eraser. Thank you from the whole bakery.
Whoever fixed our login on Sunday deserves a cake. That's all!
[complaint about service | ^]
Your hotline kept me waiting for {m} minutes and then hung up.
I find the tone of your colleague's answer unacceptable. I want to make a complaint about it.
Four tickets, four robots. Is there a human in your company?
Please pass on to your boss that I was not happy with how I was spoken to.
[job application | =]
Are you hiring? I've been in support for {n} years.
I'd like to apply as a working student, whom do I write to?
My CV is attached for the post of technical writer in your billing team.
Do you take interns in {month}? I study accounting.
[press | =]
I'm a journalist writing about shift work. Can I talk to your founder by {day}?
We'd like to print a screenshot of your time clock in our trade magazine. Who gives permission?
For a radio piece about Sunday work I'm looking for a voice from your company.
May we quote your numbers on missed payments in our yearbook?
[partnership | =]
We make payroll software and would like to discuss a partnership.
Is there a reseller programme? I advise small hotels.
Our agency would love to become an implementation partner, what are the requirements?
I have {m} customers who could use your product. Who do I talk to about working together?
[training]
Do you run courses for new planners?
Is there a beginner's video about making rosters? My deputy has never seen the program.
Could someone come to {n} of our branches and train the team leads?
When's the next webinar, and will it be recorded?
[how-to docs]
Where's the manual? I like to read on paper.
I read the guide on overtime twice and still don't grasp what "time bank" means. Explain?
What is the right way to plan on-call duty in Rotaquill? Just for understanding.
Which guide should I start with if I take over planning from a colleague?
[gdpr paperwork]
We need a signed data processing agreement from you before our audit on {date}.
Where are your servers? Our data protection officer asks.
Please fill in the attached security questionnaire, it has {m} questions.
Do you have an ISO certificate that we can put into our file?
[accessibility statement]
Our council needs your accessibility conformance statement.
Has your software been checked by an independent body? We need it in writing for a tender.
Attached are the tender papers. Deadline is {date}, do you take part?
Which subprocessors do you use? Legal wants the list.
[misdirected mail | =]
I've ordered a sofa and it hasn't come. Order {ref}.
You sent me someone else's parcel, brown box, no sender.
Is this the dentist? I must move my appointment on {day}.
My flight was cancelled, where do I get a hotel voucher?
[misdirected employee | -]
I can't come to work tomorrow, I have fever. Please tell {name}.
I want to swap my {day} shift, who can take it?
My wages for {month} are wrong, 12 hours are missing. I work at the swimming pool.
When is my next shift? It's me, {name} from the kitchen.
[event invitation | =]
We cordially invite you to our trade fair on {date}.
Would one of you speak at our founders' evening? {m} guests, free pizza.
Our school organises a career day, could you come and show what you do?
A panel on the future of shift work lacks a participant. Interested?
[sales pitch | =]
We offer search engine optimisation for companies like yours, first month free.
I noticed that your website could rank higher. May I call on {day}?
Do you need office coffee? Try our beans for nothing.
Our outsourcing team processes invoices at half your present cost. Let's talk.
[survey research | =]
I'm writing my thesis about scheduling software, would you answer {n} questions?
Our institute studies night work. May we place a questionnaire with your users?
Would you share anonymous figures on overtime for a research project?
For a class project we're comparing planning tools. Is there someone to interview?
[company info | =]
Who owns Rotaquill? My boss wants to know who we're dealing with.
How many people work for you, and where?
Is it true that you were bought by a bigger firm?
What does the name mean? We have a bet running in the office.
[office address]
What's your postal address? I have to send a letter by registered mail.
Where can I visit you? I'm in town on {day}.
Do you have a phone number? I don't care for writing.
What are your opening hours between the holidays?
[newsletter]
Please take me off the newsletter, I've never subscribed.
I enjoy your newsletter, could I reprint the piece on breaks in our staff paper?
Your marketing mails come {n} times a week. Too many.
The link to the blog in your newsletter shows an article about cats, was that on purpose? :)
[status of ticket | ^]
What's the state of my request {ref}? I've heard nothing.
You closed my ticket without a reply.
Did my mail from {date} arrive with you?
Two of you are answering me at the same time, with different answers. Who's in charge?
[legal threat / police | =]
We are the attorneys of a former employee of your customer and request preservation of records.
I enclose a court order concerning working hours in {month}. Whom do I serve it on?
Labour inspection here. We need a contact person for a question about one of your customers.
Our works council wants to know how the software judges people. Have you a paper on it?
[report content | =~]
A photo in the team chat of the company I work for is racist. Who deals with this?
My employer uses your location check to spy on us. Is it legal?
My boss edits our clock-ins behind our backs. What can I do?
The restaurant that I left still owes me {m} hours. You've got the proof, right?
[testimonial/case study]
We'd be happy to be a reference customer.
You want to shoot a video in our shop, who's coming and when?
Please take our logo off your website, we never agreed to it.
I left you five stars. Where's the t-shirt? ;)
[swag, donation | =]
Would you sponsor our football team's shirts?
Our kindergarten is collecting old tablets. Do you have any to spare?
Could you donate something to the raffle of our fire brigade?
I'd love some of those stickers that I saw at the fair.
[lost and found | =.]
One of your people left an umbrella at our office.
Found: a badge with your logo at the main station.
Your technician forgot his charger here on {day}.
A visitor book of yours was in the parcel with our tablets, do you want it back?
[thank you closing | .]
Solved it myself, you may close {ref}.
Never mind my last mail, I looked at the wrong week.
It works again! No idea what you did. Ticket can be closed.
Forget the question about the bill, my colleague had the answer.
[empty / test | -]
test test 123, only checking whether this form works
asdf is this thing on? testing the form, please ignore
Sorry, my cat sent the previous message.
Hello? I only wished to see if someone reads this.
[wrong language / unclear | -]
Bonjour, est-ce que quelqu'un parle français chez vous ?
Hallo, ich hätte eine Frage, spricht jemand Deutsch?
As discussed on the phone. See attachment. (There is none.)
Yes, that one, like last time please.
[out of office | -]
I'm out of the office until {date}. In urgent cases turn to {name}.
Automatic reply: this mailbox is no longer read. Invoices go to accounts@.
Delivery failed: the recipient's mailbox is full.
Thank you for your message to the town hall. Your reference is {ref}.
[feedback without ask | .]
The new colours are a matter of taste, mine they aren't. No answer needed.
I preferred the old logo. That's it.
Honest feedback: nice product, silly advertising.
We've left you for another system. It wasn't the money nor a fault, we simply merged with a group that has its own.
[roadshow / community]
Are there user groups in my region?
Where do other restaurants that use your planner meet?
Is there a forum in which planners share tips?
I'd like to give a talk about how our hospital uses you. Who'd be my contact?
[environment / ethics | =]
Do you have a sustainability report? Our purchasing policy demands one.
Is your data centre run on green power?
What's your position on algorithms that decide about people's working hours?
Do you sell our data? A straight answer please.
[insurance, liability | ^]
Who is liable if the roster is wrong and a nurse is missing? Our insurer wants that on paper.
We need your certificate of insurance before we let you through the gate.
Please send the signed confidentiality agreement back by {date}.
Your terms of use changed. What precisely is new in section {n}?
[hours law question | ~]
Must we pay the break if a waiter stays behind the bar? You surely know.
How many hours may a sixteen-year-old work on a Saturday?
Is a shift of thirteen hours even allowed?
Can my boss change the roster one day ahead? I don't find anything on it.
[visit/appointment]
I have a demo with {name} on {day} and need to move it.
Is our call on {date} at {time} still happening?
I sat alone in your video meeting for half an hour.
Could we have our yearly review talk one week later?
[demo before buying | =]
Can someone show us the program before we decide? {m} staff, two shops.
I'd like a guided tour for our board, half an hour will do.
Does Rotaquill suit a fire station? We work 24 hours on, 48 off.
Which of your customers are hotels? I'd like to talk to one.
[students/teaching | =]
I teach hotel management and would like to show your tool in class. Is this okay?
May I use pictures of your roster in my textbook?
Could my pupils interview one of your programmers?
I'm a student and collect examples of well-made user manuals.
[translation / typo report | =.]
There's a typo on your homepage: "scheduel".
The Dutch on your website reads as if translated by a machine. I'm a translator, shall I help?
The photo on the about page shows {name} twice, ha.
On your careers page the link leads to a post from years ago.
[security researcher | =]
I'm a security researcher and want to report a finding responsibly. Is there a PGP key?
Do you have a bug bounty?
I've found your staff's mail addresses on a list in the net. Thought you'd like to know.
Who's your security contact? It's about a notice, not about our workspace.
[supplier | =.]
Attached our invoice {inv} for the cleaning of your office in {month}.
We are your landlord's caretaker. The lift is out of order on {day}.
Our offer for the printer toner you asked for is enclosed.
The flowers for {name} could not be delivered, nobody was at your reception.
[condolence, personal | .]
Merry Christmas to all of you from the night shift!
Is {name} still with you? She helped us so nicely and we haven't heard from her.
Congratulations on ten years, here's to many more!
Get well soon to the colleague with the broken leg, we heard her on the phone.
[comparison ask | =]
How are you different from the tool with the yellow logo?
Someone said that you're only for restaurants. Is that so?
We have {n} people only. Is your program overkill for us?
My cousin uses a wall calendar. Convince him.
[procurement form]
To keep you as a supplier we need the enclosed form with your company register number.
Please confirm that you pay minimum wage along your supply chain.
Our new supplier portal wants you to enrol by {date}, see the link.
Sign the code of conduct and return it, else purchasing blocks you as a vendor.
[migration help consultancy]
Do you know a consultant who helps small clinics in getting started?
Which tablet would you advise for a wet kitchen?
Is there someone who'd set up all of it for us, we have no time?
What do other care homes do about night handovers? Looking for ideas, not for software.
[survey complaint]
You ask for a rating after each chat. I won't rate people.
I gave one star by mistake, how do I make it five?
Your satisfaction survey was in Spanish and I don't speak it.
The review I wrote about you isn't published, why?
[general thanks w/ cross words | .]
The refund arrived faster than promised. Hats off!
New password, new phone, new me: your colleague got me through all of it. Thanks a lot.
The export we moaned about is now better than we dared to ask. Great.
Dark mode!!! You did it!!! We love you.
[other vs account | ?]
A former employee demands a copy of all that we have stored on him. Is there a form for this request?
For our audit we need proof that logins are protected. Have you a document?
Please don't contact me any more, neither by mail nor phone.
Is it permitted to keep the clock data of leavers for ten years?
[other vs billing | ?]
Could you sign the supplier form so that we're able to keep paying you at all?
We're thinking about buying. Who can advise us on which package fits a theatre?
Your rep {name} never called me back about the offer. I'd like to complain.
Do you have a partner rate sheet? I recommend software to my clients.
[other vs technical | ?]
Which browsers and devices are officially supported? For our IT paper.
What was the reason for the outage on {date}? Our management wants a written report.
Is maintenance planned for the night of {date}? We're having our stock-taking.
The help page on overtime contradicts the one on breaks, which one should I believe?
[hardware disposal | !]
How do I recycle an old badge reader properly?
Is the reader's battery a dangerous good? The courier wants to know.
Does the tablet mount come with screws for concrete?
What colour is the mount? We'd like to match the wall.
[film / art | !=]
We're shooting a short film in an office and want to show your program on a screen.
My novel has a planner who uses Rotaquill. May I name it?
Who composed the jingle of your video? I need it as a ring tone.
A board game about rosters, would you print it with us?
[export control / tax authority | !-]
Customs is holding a package in your name, we need a commercial invoice from you.
The tax office requests information about a customer of yours, see the letter.
Statistics office: you are obliged to report your number of employees by {date}.
Chamber of commerce: your membership data has to be renewed.
"""

PHRASINGS = {
    "billing": BILLING,
    "technical": TECHNICAL,
    "account": ACCOUNT,
    "feature_request": FEATURE_REQUEST,
    "other": OTHER,
}

# What people add to an ask of their own category. "." fits what asks for nothing, "=" what comes from no customer.
DETAILS = {
    "billing": """
Our accountant is waiting for an answer, she has to close {month}.
Finance keeps asking me about it.
We pay by card, once a month, for {plan}.
My bookkeeper wants your answer in writing.
The last invoice was {inv}, over {amt}.
At present we pay {amt} a month.
{name} in accounts makes the payments, you can ask her too.
I compared the bank statement with your price list.
The last payment left our bank on {date}: {amt}.
I looked at your pricing page but it isn't answered there.
Money is tight here since {month}.
Our treasurer won't approve another payment until that is clear.
I can send you bank statements if you need them.
The billing page says {plan}, {m} seats, {amt}.
The last yearly fee was {big}, paid on {date}.
We have always paid your bills on time.
I need this for the tax return.
It is only {amt}, but it's the principle.
The budget for the tool is {big} a year, not a cent more.
Our billing contact is {name}, customer number {ref}.
Accounts can't book the amount as it stands.
It's about the subscription for our second shop, {plan}.
My credit card bill comes on {day}, so I'd like to know what to expect.
Please put me through to whoever does the invoices.
We're a small business and such costs hurt.
Payment method on file is a debit card.
""",
    "technical": """
I cleared the cache and restarted, same thing.
It happens on every computer here.
It worked fine until {day}.
A screenshot of the error is attached.
Error code on the screen: E-{n}{m}.
Reinstalling the app changed nothing.
We use the newest version of the app.
Other websites load without trouble.
It started after the update of {date}.
Steps: open, click, wait, error.
Another browser shows the same fault.
The fault is the same for all of us.
Sometimes it works for {n} minutes, then it fails again.
{m} people can't work because of this bug.
The console says something about a timeout.
Our IT checked the network and says that the fault is on your side.
Please fix this soon, we are blocked.
I can reproduce it every time.
Is this a known bug?
We rebooted the tablet {n} times.
Turning it off and on again didn't help.
Since then we are back to pen and paper.
When will it be repaired?
Looks as if your last release broke it.
It's broken at all our locations.
I tried in a private window, it fails too.
""",
    "account": """
My user name is {name}{m}.
The e-mail address of the login is the one I write from.
The user in question is {name}.
I went through the user settings and didn't find it.
My profile page offers nothing of that sort.
I can prove who I am if you need it.
It's about the login for {biz}.
I looked under settings, users, roles.
Does the owner of the workspace have to confirm this?
Our security officer wants this done by {date}.
{name} has admin rights too, she can confirm it.
It seems I don't have the rights to do that by myself.
Nothing else on the account has been changed.
There are {m} users and {n} admins in our workspace.
The account was made in {month}.
The help article on users and roles left me puzzled.
Happy to verify my identity by phone.
The account is registered to my work e-mail.
I'd rather not create a new account.
Nobody but me has access at the moment.
My role is shown as "staff", whatever that allows.
Or is this something in the account that only you can change?
If you have to change it on your side, you have my permission.
The address I log in with ends in the name of our firm.
""",
    "feature_request": """
Right now we keep a spreadsheet on the side for it.
It would save us an hour a week.
Is something like this on your roadmap?
Other planning tools have it.
I'd be happy to test it for you.
All my team leads would use that feature daily.
We would even pay extra for such a feature.
It needn't be fancy, a simple option would do.
Just an idea, take it or leave it.
I found no option for it, so I suppose it doesn't exist yet.
Please put it on the list for a future version.
Our former software could do that.
That would be a great addition.
At the moment we work around it with sticky notes.
I've been wishing for this for {n} years.
Could you consider it for the next release?
As an optional add-on it'd be enough for us.
We are surely not the only ones who want it.
If it's planned already, when will it come?
Your chat told me it isn't possible today.
Perhaps others have suggested it too.
Consider this a vote for it.
It would be nice to have this before {month}.
I'd love to see that in the app one day.
""",
    "other": """
If you aren't the right person for this, please pass it on.
It's neither our contract nor a fault, only something for our files.
Who in your company deals with such things?
There is nothing wrong with the software.
A link or a document is enough.
I need it for our records.
This is a general matter and not about my workspace.
None of the topics in your form fits, so I chose "general".
Our management asked me to send this.
Please forward it to your management.
You can also answer by post.
I wasn't sure whom to ask.
""",
    "other .": """
No need to answer.
No reply needed.
Just so that you know.
Please pass it on to the team.
I thought you'd want to know.
That's all, really.
Nothing for you to do.
""",
    "other =": """
Could you forward this to the right person?
I'm happy to explain more on the phone.
Whom in your company should I talk to?
We look forward to hearing from your company.
Our office can be reached in the mornings.
Please pass it on to your management.
If that isn't for you, just tell me whom to write to.
More about us on request.
I am writing to several companies about it.
""",
}

# Remarks in passing, in the words of one category and put into tickets of the others. None of them asks for anything.
ASIDES = {
    "billing": """
The invoice for {month} has arrived, so nothing to do there.
We paid the last bill yesterday, in case somebody wonders.
(Yes, the subscription is paid. I asked accounts.)
We are on the {plan} plan, paid yearly, if that matters.
Our renewal comes up in {month} and that is all settled.
The refund from last month did reach us, thank you.
Accounts will pay {inv} this week, that's a separate matter.
This isn't about money, the {amt} a month is fine with us.
I know {name} wrote to you about a discount, that has nothing to do with it.
For {amt} a month I really can't complain otherwise.
Our card was renewed last week and the payment went through.
Price was never the issue, we budgeted {big} for this year.
We upgraded to {plan} in {month} and are happy with it.
The VAT question from {date} is closed as far as I'm concerned.
Ignore the reminder for {inv}, it crossed with our payment.
The credit note came too, many thanks for that.
""",
    "technical": """
(The export crashed on me earlier but it worked at the second try.)
The app was a bit slow this morning, it is fine again.
There was an error message at first, after a reload it was gone.
The kiosk froze on {day}, a restart cured it.
No bug this time, for once everything runs.
The sync hiccup from {date} hasn't come back, well done.
My browser crashed while I was typing this, so here it is again.
The board loads fine since the last update.
We had an outage here on {day}, our own internet was to blame.
The blank page I reported in {month} is repaired.
Our tablet was broken for a while, a new one is in place.
Nothing is down or anything, don't worry.
Sorry for the screenshot, the upload failed and I gave up on it.
The time clock showed an error {n} on {day}, only once.
The reports work nicely again after the fix.
Your chat window wouldn't load, hence the mail.
""",
    "account": """
I can log in fine, before you ask.
{name} has reset her password already, so please ignore her mail.
I have admin rights, in case that matters.
You can write to my old e-mail address, I still read it.
My profile is up to date, {name} checked.
We added {n} new users last week and this went smoothly.
I write from {name}'s account since mine is on another computer.
Two-factor is switched on for all of us, by the way.
The new user roles suit us well.
I'm the owner of the workspace, user name {name}.
Our admin {name} is on holiday, so I am writing.
The invitation for {name} has arrived in the meantime.
My password manager logged me in at once, that was a nice surprise.
{name} left us in {month}, her profile is already archived.
Permissions are not the point here, I've the same as before.
The verification code came by text within seconds.
""",
    "feature_request": """
A dark mode would be nice one day, but that's not for now.
The new copy button that you added is great.
I like the idea of shift templates from your last update.
I won't ask for more features today, promise.
My wish list went to {name} at the last meeting.
I hear that you plan a watch app, we're curious.
The month view we'd asked for is lovely.
Would be nice to have shortcuts too, some other time.
{name} has sent you our ideas for the board already.
Thanks for adding the colours, it was on our list for years.
I saw on your roadmap that swaps are coming, no hurry.
Someone suggested an option for split shifts, forget about that.
The integration you added in {month} saves us an hour a week.
It'd be great to have it in Spanish, but we manage.
The missing filter doesn't bother us any more.
We voted for the new calendar and are glad that it came.
""",
    "other": """
Greetings to {name} in your team, she was so helpful on {day}.
We enjoyed the webinar in {month}.
Your newsletter made me laugh this week.
See you at the fair in {month}, perhaps.
I filled in your survey already.
A journalist asked us about you, we only said good things.
The training that {name} gave us was excellent.
The data protection paper has arrived, signed copy is in the post.
Happy belated anniversary to your company!
I have told our neighbours about you, they'd like a demo.
I know that you're short of people, I saw the job ads.
The manual is well written, I did look there first.
Nice to hear that you've moved to a bigger office.
We hung up your poster in the canteen.
Your colleague {name} said I should write to this address.
Your answer to my last ticket ({ref}) was quick, thank you.
""",
}

# The same, as a way into the ticket.
LEAD_INS = {
    "billing": """
Thanks for sorting out the double charge last week. Now something else.
The bill is paid, so on to a different topic.
I had written to you about an invoice, that's done. This is new:
First of all, the refund came. Second:
Not a question about prices this time.
""",
    "technical": """
The crash from last week is gone, thank you. Different matter now.
Since the app works again I finally get round to this.
You fixed our export so fast that I dare to write again.
It's not a bug, I believe.
Everything's running without errors at the moment. Even so:
""",
    "account": """
I managed to sign in, so that's off the table. What brings me here:
Thanks for unlocking {name} so quickly. Another thing:
After the password trouble of {day} there's one more thing.
My login works, no worry about that.
We have added the new admin as you explained. Next point.
""",
    "feature_request": """
I sent you a few suggestions in {month}; this isn't one of them.
Great that the new planner view is there, we'd waited for it.
Leaving aside all the features we dream of:
The option you built for us does its job. Now to this:
No new wishes today.
""",
    "other": """
Nice talking to you at the fair.
After the training on {day} one thing came up.
{name} from your team told me to put this in writing.
I hope the move to your new office went well.
I've read the guide and didn't get any wiser.
""",
}

# Who is writing. {biz} is a kind of firm, with its article; {m} a number of people.
CONTEXTS = """
We are {biz} with {m} people and plan everything in Rotaquill.
We have been with you since {month}.
I look after the rosters at {biz}.
Background: {biz}, {n} locations, {m} staff.
I took over the job from {name} in {month} and am still finding my way.
We're {biz}, so weekends are when we need things to work.
I'm the manager of {biz}, not a computer person.
We have been using your software for {n} years.
I run {biz} together with my sister.
I'm writing on behalf of {name}, who is off sick.
We are {biz} and open seven days a week.
We switched to Rotaquill from paper in {month}.
I already asked {name} here and she doesn't know either.
I do the office work for {biz}, mornings only.
I've spent {m} minutes in the help pages without finding it.
We're a small place, {m} people in the season and {n} in winter.
My boss asked me to write to you.
This came up in our team meeting on {day}.
I called your hotline on {date} but gave up in the queue.
We have two workspaces, this is about the one for {biz}.
We start the new season on {date}, so I'm trying to get everything in order.
I hope that I'm in the right place here.
I tried to find this out by myself since {day}.
I plan for {n} teams, about {m} people in all.
It's month-end here and my desk is full.
I'm new at {biz} and was handed this to deal with.
"""
EMPLOYEE_CONTEXTS = """
I work at {biz}.
I'm on early shift at {biz}, so I can write only now.
I've been working at {biz} since {month}.
I asked my manager and she sent me to you.
My boss doesn't know the answer.
I'm a part-timer at {biz}.
I use the app on my phone only.
"""
OUTSIDER_CONTEXTS = """
I found this address on your website.
I hope this is the right mailbox, the form only offered billing and technical.
I don't use the product myself and have no login.
This isn't about an account or an invoice.
I tried to call but the menu only knows refunds, passwords and errors.
Your contact form kept asking for a customer number, I don't have one.
I'm not a customer (yet).
I've only seen your pricing page so far.
Forgive me if that lands at technical support, I saw no other address.
The sign-up page wanted a credit card, so I am writing here.
I got your address from {name} at {biz}.
It's nothing to do with a subscription.
"""
ANGRY_CONTEXTS = """
This is the {n}th time that I'm writing.
I have had it up to here.
Nobody answered my mail of {date}.
I pay you and this is what I get.
{m} people are waiting for me.
Seriously?
I've wasted my whole {day} on this.
Unbelievable.
What on earth is going on over there?
"""

GREETINGS = {
    "curt": ["Hi,", "hello", "Hi"],
    "plain": [
        "Hi,",
        "Hello,",
        "Hi there,",
        "Hello team,",
        "Good morning,",
        "Hi Rotaquill team,",
        "Hey,",
        "Hi support,",
    ],
    "polite": [
        "Dear support team,",
        "Dear Rotaquill team,",
        "Good afternoon,",
        "Good morning,",
        "Hello and good day,",
        "Dear Sir or Madam,",
        "Dear all,",
        "To whom it may concern:",
        "Hello dear team,",
    ],
    "chatty": [
        "Hey there!",
        "Hiya,",
        "Hello you lovely people,",
        "Hey folks,",
        "Hi, me again!",
        "Heya team,",
        "Hello hello,",
        "Hi all, hope you're well!",
        "Morning!",
        "Good evening!",
        "Hi, long time no write.",
        "Howdy,",
    ],
    "angry": ["Hello.", "To the management:", "Attention support!", "Hello???"],
}
REQUEST_CLOSERS = {
    "curt": ["Asap pls.", "Need to know today.", "Thx", "pls answer", "Any idea?", "Urgent."],
    "plain": [
        "Can you let me know?",
        "Please get back to me.",
        "Let me know what you need from me.",
        "What should I do?",
        "An answer by {day} would help.",
        "Who can help me with that?",
        "I'd need to know before {date}.",
    ],
    "polite": [
        "I would be grateful for a short reply.",
        "Thank you very much in advance for your help.",
        "Could you kindly advise?",
        "Please excuse the trouble, and thank you for your time.",
        "Kindly do the needful.",
        "I wait for your kind answer.",
        "If you need more details, please do ask.",
        "We would appreciate to hear from you until {day}.",
    ],
    "chatty": [
        "Would make my {day} if you could answer :)",
        "Sorry for the long mail, I always write novels!",
        "No rush, whenever you find a minute.",
        "Sorry if it's a silly thing to write about...",
        "I'll buy whoever answers a coffee.",
        "Answer when you can, I'm here till {time}.",
        "Ping me when you know more, ok?",
        "Fingers crossed, and thanks a million!",
        "You'd be my hero 🙏",
    ],
    "angry": [
        "I expect an answer today.",
        "This is not acceptable.",
        "I am losing my patience.",
        "And please no standard reply.",
        "Otherwise we'll look for something else.",
        "Call me. Today.",
        "I want to hear from a person!!",
    ],
}
PLAIN_CLOSERS = {
    "curt": ["Thanks.", "thx", "Rgds"],
    "plain": ["Thanks", "Thank you!", "Thanks, bye", "Regards", "Best", "Cheers,"],
    "polite": ["Kind regards", "With kind regards", "Best regards", "Yours sincerely", "Many thanks and best wishes"],
    "chatty": [
        "Cheers!",
        "Have a lovely day!",
        "Hugs from the crew 😊",
        "Take care!",
        "Bye for now!",
        "Sunny greetings",
        "xx",
    ],
    "angry": ["Regards.", "No regards.", "Waiting."],
}
SUBJECTS = [
    "Question",
    "Urgent",
    "Help",
    "Your mail",
    "Quick one",
    "Follow-up",
    "Request",
    "From {biz}",
    "Ticket {ref}",
    "(none)",
]

ASIDE_OPENINGS = ["", "", "", "By the way: ", "PS: ", "Oh, and: ", "Btw: "]

WOMEN = [
    "Marta",
    "Priya",
    "Ines",
    "Carol",
    "Noémie",
    "Fatou",
    "Greta",
    "Olga",
    "Aisha",
    "Lucía",
    "Wendy",
    "Hanne",
    "Mei",
]
MEN = ["Tom", "Jorge", "Dave", "Piotr", "Kwame", "Sven", "Rashid", "Owen", "Luca", "Milan", "Zoltán", "Ben", "Hiro"]
FIRMS = [
    "bakery", "dental practice", "hotel", "fire station", "care home", "garden centre", "swimming pool", "cinema",
    "cleaning company", "café", "call centre", "pharmacy", "brewery", "bike shop", "museum", "nursery", "theatre",
    "catering firm", "warehouse", "vet clinic", "ski school", "restaurant", "security firm", "gym", "ice cream parlour",
    "hospital ward", "petrol station", "language school", "hair salon", "courier firm",
]  # fmt: skip
PLACES = [
    "Harrow Lane",
    "Old Mill",
    "Northgate",
    "Lindenhof",
    "Quayside",
    "Three Oaks",
    "Bellweather",
    "Saltmarsh",
    "Elm Court",
]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
PLANS = ["Crew", "Studio", "Fleet"]  # from the cheapest up; the free one, Solo, is named in the phrasings

MISSPELLINGS = {
    "the": "teh", "receive": "recieve", "because": "becuase", "definitely": "definately", "account": "acount",
    "their": "thier", "please": "plese", "until": "untill", "separate": "seperate", "tomorrow": "tommorow",
    "which": "wich", "address": "adress", "received": "recieved", "with": "wiht", "employee": "employe",
    "payment": "paymnet", "password": "pasword", "schedule": "schedual", "happened": "happend", "really": "realy",
    "would": "woud", "people": "poeple", "again": "agian", "you": "u", "are": "r", "your": "ur", "there": "ther",
    "and": "adn", "this": "tihs", "invoice": "invioce", "calendar": "calender", "colleague": "collegue",
}  # fmt: skip


@dataclass(frozen=True)
class Phrasing:
    """One way to put one ask."""

    category: str
    scenario: str
    flags: str
    text: str


@dataclass(frozen=True)
class Ticket:
    """A finished ticket, and where it comes from."""

    text: str
    phrasing: Phrasing

    @property
    def category(self) -> str:
        return self.phrasing.category

    @property
    def ambiguous(self) -> bool:
        return "?" in self.phrasing.flags


class Dice:
    """Draws that are the same on every Python version."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def between(self, low: int, high: int) -> int:
        return low + int(self._random() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self._random() * len(items))]

    def shuffled(self, items: Iterable[T]) -> list[T]:
        return [item for _, _, item in sorted((self._random(), i, item) for i, item in enumerate(items))]


def lines(block: str) -> list[str]:
    return [line for line in block.splitlines() if line]


def read_phrasings() -> list[Phrasing]:
    phrasings: list[Phrasing] = []
    for category, block in PHRASINGS.items():
        scenario, flags = "", ""
        for line in lines(block):
            if line.startswith("["):
                scenario, _, flags = line.strip("[]").partition(" | ")
            else:
                phrasings.append(Phrasing(category, scenario, flags, line))
    return phrasings


def fill(text: str, dice: Dice, currency: str) -> str:
    """Put values into the {slots}; a slot named twice in one text gets one value."""
    if re.search(r"\b(she|her|hers)\b", text, re.I):
        names = WOMEN
    elif re.search(r"\b(he|his|him)\b", text, re.I):
        names = MEN
    else:
        names = WOMEN + MEN
    cheaper = dice.between(0, 1)
    month, day = dice.pick(MONTHS), dice.between(1, 28)
    number = MONTHS.index(month) + 1
    firm = dice.pick(FIRMS)

    def money(figures: Sequence[str]) -> str:
        figure = dice.pick(figures)
        return f"{figure} euros" if currency == "euros" else currency + figure

    values = {
        "name": dice.pick(names),
        "n": str(dice.between(4, 9)),
        "m": str(dice.between(12, 60)),
        "month": dice.pick(MONTHS),
        "day": dice.pick(DAYS),
        "date": dice.pick([f"{day} {month}", f"{month} {day}", f"{month[:3]} {day}", f"{day:02}/{number:02}"]),
        "time": dice.pick(["9:40", "7 am", "14:15", "noon", "5:30 pm", "quarter past eight", "11:05"]),
        "amt": money(["29", "36.00", "48", "59.90", "84.50", "96", "112", "137.80"]),
        "big": money(["1,140", "2,388", "960", "1,716.00", "3,420", "780", "1,299"]),
        "plan": PLANS[cheaper],
        "plan2": PLANS[cheaper + 1],
        "inv": f"{dice.pick(['INV-', 'RQ-', '#', 'no. '])}{dice.between(20000, 39999)}",
        "ref": f"{dice.pick(['', '#', 'T-', 'PX'])}{dice.between(410000, 989999)}",
        "code": dice.pick(["SPRING20", "HELLO25", "ROTA15", "CREW10"]),
        "biz": f"{'an' if firm[0] in 'aeiou' else 'a'} {firm}",
    }
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], text)


def stems(text: str) -> set[str]:
    """What a text talks about, roughly: an aside that talks about the same thing as the ask would contradict it."""
    text = re.sub(r"\{\w+\}", " ", text.lower())
    text = re.sub(r"log(?:ged|ging)?[ -]?in|sign(?:ed|ing)?[ -]in|password|two-factor|code\b", " signin ", text)
    text = re.sub(r"\bbills?\b|billed|charged?|subscription|invoices?|paid|pay\b|payments?|refund", " payment ", text)
    text = re.sub(r"crash\w*|error|bug\b|broken|down\b|fault|frozen|froze|slow", " error ", text)
    return {word[:6] for word in re.findall(r"[a-z]{5,}|app\b", text)} - COMMON


# The beginnings of words too common to tell a topic.
COMMON = {
    "about", "after", "again", "thing", "there", "their", "these", "which", "would", "could", "should", "where",
    "other", "someth", "everyt", "nothin", "please", "thanks", "thank", "people", "since", "still", "never",
    "always", "first", "second", "write",
}  # fmt: skip


@dataclass(frozen=True)
class Tone:
    """How likely each part of a ticket is."""

    greeting: float
    lead_in: float
    context: float
    detail: float
    aside: float
    closer: float
    signature: float


TONES = {
    "curt": Tone(greeting=0.12, lead_in=0.00, context=0.12, detail=0.44, aside=0.08, closer=0.25, signature=0.03),
    "plain": Tone(greeting=0.55, lead_in=0.05, context=0.18, detail=0.68, aside=0.18, closer=0.38, signature=0.18),
    "polite": Tone(greeting=0.95, lead_in=0.06, context=0.24, detail=0.68, aside=0.20, closer=0.65, signature=0.45),
    "chatty": Tone(greeting=0.80, lead_in=0.15, context=0.35, detail=0.68, aside=0.38, closer=0.65, signature=0.18),
    "angry": Tone(greeting=0.15, lead_in=0.00, context=0.50, detail=0.68, aside=0.10, closer=0.60, signature=0.10),
}
TONE_MIX = ["curt"] * 4 + ["plain"] * 6 + ["polite"] * 4 + ["chatty"] * 4 + ["angry"] * 2


def compose(phrasing: Phrasing, dice: Dice) -> str:
    """One ticket around ``phrasing``, drawn anew at each call."""
    name, flags = dice.pick(TONE_MIX), phrasing.flags
    if name == "angry" and phrasing.category == "other" and "^" not in flags:
        name = "curt"
    tone, outsider, bare = TONES[name], "=" in flags, "-" in flags
    currency = dice.pick(["$", "€", "£", "euros"])
    topics = stems(phrasing.text)

    def remark(table: dict[str, str]) -> str:
        elsewhere = dice.pick([category for category in CATEGORIES if category != phrasing.category])
        return dice.pick([line for line in lines(table[elsewhere]) if not stems(line) & topics] or [""])

    before: list[str] = []
    after: list[str] = []
    if not bare:
        if not outsider and "~" not in flags and dice.chance(tone.lead_in):
            before.append(remark(LEAD_INS))
        if dice.chance(tone.context):
            pool = ANGRY_CONTEXTS if name == "angry" else CONTEXTS
            pool = OUTSIDER_CONTEXTS if outsider else EMPLOYEE_CONTEXTS if "~" in flags else pool
            before.append(dice.pick(lines(pool)))
        if dice.chance(tone.detail):
            kind = phrasing.category + next((f" {flag}" for flag in ".=" if flag in flags), "")
            after.append(dice.pick(lines(DETAILS[kind])))
        if not outsider and "~" not in flags and dice.chance(tone.aside):
            words = remark(ASIDES)
            after.append(words if words.startswith("(") else dice.pick(ASIDE_OPENINGS) + words if words else "")
    parts = [*before, phrasing.text, *after]
    if not bare and dice.chance(tone.closer):
        plain = "." in flags or dice.chance(0.4)
        parts.append(dice.pick((PLAIN_CLOSERS if plain else REQUEST_CLOSERS)[name]))
    body = " ".join(fill(part, dice, currency) for part in parts if part)
    gap = dice.pick(["\n", " ", " ", " "])
    if not bare and dice.chance(tone.greeting):
        body = dice.pick(GREETINGS[name]) + gap + body
    if not bare and dice.chance(tone.signature):
        writer, initial = dice.pick(WOMEN + MEN), dice.pick("ABDGHKLMPRSTW")
        firm = f"{dice.pick(PLACES)} {dice.pick(FIRMS).title()}"
        names = [writer, f"- {writer}", f"{writer}, {firm}", f"{writer} ({firm})", f"{writer} {initial}."]
        body += gap + dice.pick(names)
    subject = f"Subject: {dice.pick(SUBJECTS)}\n" if not bare and dice.chance(0.05) else ""
    return fill(subject, dice, currency) + mistype(body, name, dice)


def mistype(text: str, tone: str, dice: Dice) -> str:
    """The noise of typing: about a third of the tickets have some."""
    if tone == "angry" and dice.chance(0.4):
        shouted = dice.pick([word for word in text.split() if len(word) > 3])
        text = text.replace(shouted, shouted.upper(), 1)
    if tone == "angry" and dice.chance(0.3):
        text = re.sub(r"([.?!])(\s|$)", lambda m: (m[1] if m[1] != "." else "!") * 2 + m[2], text, count=1)
    if tone in ("curt", "chatty", "plain") and dice.chance(0.17):
        text = text.lower()
    if tone != "polite" and dice.chance(0.15):
        text = text.replace("'", "")
    if dice.chance(0.12):
        text = text.replace(",", "")
    if dice.chance(0.15):
        text = text.rstrip(".!")
    if dice.chance(0.22):
        words = text.split(" ")
        for _ in range(dice.between(1, 3)):
            spot = dice.between(0, len(words) - 1)
            words[spot] = misspell(words[spot], dice)
        text = " ".join(words)
    return text


def misspell(word: str, dice: Dice) -> str:
    if word.lower() in MISSPELLINGS and dice.chance(0.8):
        return MISSPELLINGS[word.lower()]
    if len(word) < 5 or not word.isalpha():
        return word
    spot = dice.between(1, len(word) - 3)
    how = dice.pick(("swap", "drop", "double"))
    if how == "swap":
        return word[:spot] + word[spot + 1] + word[spot] + word[spot + 2 :]
    return word[:spot] + word[spot + 1 :] if how == "drop" else word[: spot + 1] + word[spot:]


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """The runs of three words of a text, without case and punctuation."""
    words = re.findall(r"\w+", text.lower())
    return frozenset(tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2)))


def similarity(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    """Jaccard: shared shingles as a share of all."""
    return len(a & b) / len(a | b)


def assign(phrasings: Sequence[Phrasing], dice: Dice) -> dict[str, list[Phrasing]]:
    """Which phrasings go into which split, in the order of the file."""
    splits: dict[str, list[Phrasing]] = {split: [] for split in SPLITS}
    for category in CATEGORIES:
        own = dice.shuffled(p for p in phrasings if p.category == category)
        size = {split: total // len(CATEGORIES) for split, total in SPLITS.items()}
        for split in ("dev", "test"):
            unseen = [p for p in own if "!" in p.flags][:UNSEEN_PER_CATEGORY]
            taken, scenarios = list(unseen), set[str]()
            for phrasing in own:
                if len(taken) < size[split] and "!" not in phrasing.flags and phrasing.scenario not in scenarios:
                    taken.append(phrasing)
                    scenarios.add(phrasing.scenario)
            own = [p for p in own if p not in taken]
            splits[split] += taken
        splits["train"] += own
        if len(own) != size["train"] or any("!" in p.flags for p in own):
            raise ValueError(f"{category}: {len(own)} phrasings are left for the train split, or some that must not be")
    return {split: dice.shuffled(chosen) for split, chosen in splits.items()}


def generate(seed: int = SEED) -> dict[str, list[Ticket]]:
    """All tickets by split, in the order of the file."""
    dice = Dice(seed)
    splits: dict[str, list[Ticket]] = {}
    seen: list[tuple[str, frozenset[tuple[str, ...]]]] = []
    for split, phrasings in assign(read_phrasings(), dice).items():
        splits[split] = []
        for phrasing in phrasings:
            for _ in range(200):
                text = compose(phrasing, dice)
                grams = shingles(text)
                if MIN_WORDS <= len(text.split()) <= MAX_WORDS and all(
                    similarity(grams, other) < MAX_SIMILARITY for where, other in seen if where != split
                ):
                    break
            else:
                raise ValueError(f"no ticket fits around {phrasing}")
            splits[split].append(Ticket(text, phrasing))
            seen.append((split, grams))
    return splits


def to_json(tickets: Iterable[Ticket]) -> str:
    rows = [json.dumps({"text": t.text, "category": t.category}, ensure_ascii=False) for t in tickets]
    return "[\n" + ",\n".join(rows) + "\n]\n"


if __name__ == "__main__":
    everything = [ticket for tickets in generate().values() for ticket in tickets]
    target = Path(__file__).with_name("tickets.json")
    target.write_text(to_json(everything), encoding="utf-8", newline="\n")
    print(f"{target}: {len(everything)} tickets, {sum(t.ambiguous for t in everything)} of them ambiguous")
